"""What is asked of a kernel. Legend: T tokens, K top-k, E experts, D hidden."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from moe_harness.cases.synthetic import FLAT, PEAKED
from moe_harness.cases.tensors import round_to
from moe_harness.implementations.interface import KernelCall, RoutingSpec
from moe_harness.kernel import routes
from moe_harness.kernel.weights import SMALL, TRUE, Shape
from moe_harness.oracle.routing import combine_weights

# Around the tiles of 16 and 128 rows that kernels work in, and the two ends.
TOKENS = (0, 1, 2, 15, 16, 17, 127, 128, 129, 1024)
LOADS = (15, 16, 17, 127, 128, 129)
# Activations times these; an expert's output grows with the square. float16 has 5 bits of exponent.
LARGE = {"float32": 2.0**10, "bfloat16": 2.0**10, "float16": 2.0**5}
SMALL_SCALE = {"float32": 2.0**-12, "bfloat16": 2.0**-12, "float16": 2.0**-3}


@dataclass(frozen=True)
class Case:
    """`calls` are made one after the other on the weights of `shape`. `needs`: arguments without which the kernel is not asked. `spoilt_T`:
    tokens of the last call that hold NaN and whose outputs are not judged. `repeats_T`: row i of the last call is row `repeats_T[i]` of
    the first."""

    name: str
    group: str
    about: str
    shape: str
    calls: tuple[KernelCall, ...]
    needs: tuple[str, ...] = ()
    spoilt_T: np.ndarray | None = None
    repeats_T: np.ndarray | None = None


@dataclass(frozen=True)
class Asker:
    """Makes the calls of one case at one shape: the same name gives the same numbers."""

    shape: Shape
    spec: RoutingSpec
    dtype: str
    rng: np.random.Generator

    def x(self, T: int, scale: float = 1.0) -> np.ndarray:
        return round_to(self.rng.standard_normal((T, self.shape.D), np.float32) * np.float32(scale), self.dtype)

    def random(self, T: int, router: float = FLAT, scale: float = 1.0) -> KernelCall:
        logits_TE = routes.random_logits(self.rng, T, self.shape.E, self.shape.K, router)
        return self.routed(logits_TE, np.argsort(-logits_TE, axis=-1, kind="stable")[:, : self.shape.K], scale)

    def pinned(self, ids_TK: np.ndarray) -> KernelCall:
        return self.routed(routes.logits_for(self.rng, ids_TK, self.shape.E), ids_TK)

    def routed(self, logits_TE: np.ndarray, ids_TK: np.ndarray, scale: float = 1.0) -> KernelCall:
        weights_TK = combine_weights(logits_TE.astype(np.float64), ids_TK, self.spec).astype(np.float32)
        renormalize = self.spec.normalize_topk
        return KernelCall(self.x(len(ids_TK), scale), ids_TK.astype(np.int64), weights_TK, logits_TE, renormalize)

    def weighted(self, T: int, weigh: Callable[[np.ndarray], np.ndarray]) -> KernelCall:
        """A random routing with other weights (T, K), which no logits give."""
        call = self.random(T)
        return replace(call, topk_weights_TK=weigh(call.topk_weights_TK).astype(np.float32), router_logits_TE=None)


Making = Callable[[Asker], Case]


def small_cases(shapes: dict[str, Shape], spec: RoutingSpec, dtype: str) -> list[Case]:
    """All cases at the small shapes."""
    makers = [*_tokens(), *_loads(), *_routing(), *_weights(), *_values(), *_state()]
    squares = [_square(shape) for shape in shapes.values() if shape.name != SMALL]
    return [_make(shapes[SMALL], name, maker, spec, dtype) for name, maker in makers] + [
        _make(shapes[shape], name, maker, spec, dtype) for shape, (name, maker) in zip(list(shapes)[1:], squares, strict=True)
    ]


def true_cases(shape: Shape, spec: RoutingSpec, dtype: str) -> list[Case]:
    """Few tokens on the layer as large as it is: one, as many as reach every expert, and a full tile with one row more."""
    return [_make(shape, name, maker, spec, dtype) for name, maker in _true(shape)]


def _make(shape: Shape, name: str, maker: Making, spec: RoutingSpec, dtype: str) -> Case:
    return maker(Asker(shape, spec, dtype, np.random.default_rng([zlib.crc32(name.encode()), shape.D])))


def _case(name: str, group: str, about: str, ask: Callable[[Asker], KernelCall], needs: tuple[str, ...] = ()) -> tuple[str, Making]:
    return name, lambda asker: Case(name, group, about, asker.shape.name, (ask(asker),), needs)


def _tokens() -> Iterator[tuple[str, Making]]:
    for T in TOKENS:
        yield _case(f"tokens-{T}", "tokens", f"{T} token{'' if T == 1 else 's'}, flat router", lambda ask, T=T: ask.random(T))  # type: ignore[misc]


def _loads() -> Iterator[tuple[str, Making]]:
    for T in LOADS:
        yield _case(
            f"load-{T}", "loads", f"all {T} tokens go to the same K experts, the last ones",
            lambda ask, T=T: ask.pinned(routes.same_ids(T, ask.shape.E, ask.shape.K)),  # type: ignore[misc]
        )  # fmt: skip
    yield _case("one-expert-in-all", "loads", "40 tokens share their first expert", lambda ask: ask.pinned(_sharing(ask)))
    yield _case("every-expert", "loads", "every expert in every slot, once each", lambda ask: ask.pinned(_rotating(ask)))
    yield _case("empty-experts", "loads", "33 tokens; every other expert gets none", lambda ask: ask.pinned(_sparse(ask)))


def _rotating(ask: Asker) -> np.ndarray:
    return routes.rotating_ids(ask.shape.E, ask.shape.K)


def _sharing(ask: Asker) -> np.ndarray:
    """Expert 1 of every token first, the others drawn."""
    E, K = ask.shape.E, ask.shape.K
    others = routes.ids_among(ask.rng, 40, np.delete(np.arange(E), 1), K)[:, : K - 1]
    return np.concatenate([np.ones((40, 1), np.int64), others], axis=-1)


def _sparse(ask: Asker) -> np.ndarray:
    E, K = ask.shape.E, ask.shape.K
    allowed = np.arange(1, E - 1, 2)
    return routes.ids_among(ask.rng, 33, allowed if len(allowed) >= K else np.arange(E), K)


def _routing() -> Iterator[tuple[str, Making]]:
    for name, scale in (("flat", FLAT), ("peaked", PEAKED)):
        about = f"64 tokens, router logits of standard deviation {scale:g}"
        yield _case(f"router-{name}", "routing", about, lambda ask, scale=scale: ask.random(64, scale))  # type: ignore[misc]
    yield "renormalize", _other_renormalize


def _other_renormalize(ask: Asker) -> Case:
    """The flag turned round, for kernels that take it."""
    ask = replace(ask, spec=replace(ask.spec, normalize_topk=not ask.spec.normalize_topk))
    about = f"renormalize={ask.spec.normalize_topk}, which is not the model's"
    return Case("renormalize", "routing", about, ask.shape.name, (ask.random(64),), ("router_logits", "renormalize"))


def _weights() -> Iterator[tuple[str, Making]]:
    """Only for kernels that are given the weights."""
    given = ("topk_weights",)
    for name, about, weigh in (
        ("weights-any-sum", "weights of 0.1 to 2 that do not sum to one", lambda ask, w: ask.rng.uniform(0.1, 2.0, w.shape)),
        ("weights-by-slot", "weights that halve from slot to slot", lambda ask, w: 0.5 ** np.arange(w.shape[1]) + 0 * w),
        ("weights-zero", "a zero in every token's first slot, zeros in all slots of two tokens", lambda ask, w: _with_zeros(w)),
        ("weights-equal", "all weights are 1", lambda ask, w: np.ones_like(w)),
    ):  # fmt: skip
        yield _case(name, "weights", about, lambda ask, weigh=weigh: ask.weighted(33, lambda w: weigh(ask, w)), given)  # type: ignore[misc]


def _with_zeros(weights_TK: np.ndarray) -> np.ndarray:
    changed = weights_TK.copy()
    changed[:, 0] = 0
    changed[3:5] = 0
    return changed


def _values() -> Iterator[tuple[str, Making]]:
    yield _case("large-activations", "values", "33 tokens, far above 1", lambda ask: ask.random(33, scale=LARGE[ask.dtype]))
    yield _case("small-activations", "values", "33 tokens, far below 1", lambda ask: ask.random(33, scale=SMALL_SCALE[ask.dtype]))


def _state() -> Iterator[tuple[str, Making]]:
    yield "nan-token", _nan_token
    yield "same-call-twice", _twice
    yield "permuted", _permuted
    yield "calls-in-a-row", _row_of_calls


def _nan_token(ask: Asker) -> Case:
    call = ask.random(33)
    spoilt_T = np.arange(33) == 16
    x_TD = np.where(spoilt_T[:, None], np.float32(np.nan), call.x_TD)
    about = "token 16 of 33 is NaN; the others must not notice"
    return Case("nan-token", "values", about, ask.shape.name, (replace(call, x_TD=x_TD),), spoilt_T=spoilt_T)


def _twice(ask: Asker) -> Case:
    call = ask.random(65)
    return Case("same-call-twice", "state", "65 tokens, twice", ask.shape.name, (call, call), repeats_T=np.arange(65))


def _permuted(ask: Asker) -> Case:
    first, order = ask.random(65), ask.rng.permutation(65)
    assert first.router_logits_TE is not None
    second = replace(
        first, x_TD=first.x_TD[order], topk_ids_TK=first.topk_ids_TK[order], topk_weights_TK=first.topk_weights_TK[order],
        router_logits_TE=first.router_logits_TE[order],
    )  # fmt: skip
    return Case("permuted", "state", "65 tokens, and the same in another order", ask.shape.name, (first, second), repeats_T=order)


def _row_of_calls(ask: Asker) -> Case:
    """Outputs are read after the last call: a buffer that is used again has then been overwritten."""
    calls = tuple(ask.random(T) for T in (17, 129, 1, 33, 17))
    return Case("calls-in-a-row", "state", "17, 129, 1, 33, 17 tokens; all outputs are read at the end", ask.shape.name, calls)


def _square(shape: Shape) -> tuple[str, Making]:
    return _case(shape.name, "layout", f"17 tokens at D={shape.D} F={shape.F}: a transposed weight would fit", lambda ask: ask.random(17))


def _true(shape: Shape) -> Iterator[tuple[str, Making]]:
    T = -(-shape.E // shape.K)
    once = np.arange(T * shape.K).reshape(T, shape.K) % shape.E  # every expert gets one token
    yield _case("true-1", TRUE, "1 token", lambda ask: ask.random(1))
    yield _case("true-every-expert", TRUE, f"{T} tokens that reach all {shape.E} experts", lambda ask: ask.pinned(once))
    yield _case("true-129", TRUE, "129 tokens, peaked router", lambda ask: ask.random(129, PEAKED))
