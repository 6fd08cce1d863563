"""Errors of honest implementations: every kind, under every seed, on text and states that no evaluation uses.

Legend: B batch, S sequence, T tokens, K top-k, L MoE layers, E experts, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from moe_harness.cases.cases import Case
from moe_harness.cases.tensors import round_to
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.subject import SubjectBackend, SubjectModel
from moe_harness.implementations.interface import LoadSpec, PinnedRouting, Request
from moe_harness.judge.errors import block_errors
from moe_harness.judge.metric import of_short
from moe_harness.suite.bounds.reference import Errors, Pass, Reference
from moe_harness.suite.bounds.table import SHORT, TOKENS

WINDOW, WINDOWS = 64, 2  # tokens of one stretch of text, stretches per draw
SHORTS = 4  # more stretches, of which the first SHORT tokens are a sequence
LONG = 300  # positions of the long pass
PINNED_PER_EXPERT = 4


@dataclass(frozen=True)
class Sample:
    """One measured error, and the reference's on the same input; both logs."""

    dtype: str
    metric: str
    tokens: int
    kind: str
    case: str
    log_error: float
    log_ratio: float


@dataclass(frozen=True)
class Draw:
    """One honest implementation on one case."""

    case: Case
    dtype: str
    kind: str
    seed: int
    seams: Seams

    @property
    def reference(self) -> Reference:
        return Reference(self.case, self.dtype)

    def rng(self) -> np.random.Generator:
        """The same for every kind: they all see the same inputs, so that the reference runs once for all."""
        return np.random.default_rng([self.seed, *self.case.name.encode()])

    def sample(self, errors: Errors, reference: Errors, tokens: int) -> Iterator[Sample]:
        """Errors of zero say nothing about rounding, and those of the reference itself nothing about other implementations: left out."""
        for metric, value in errors.items():
            if value > 0 and reference[metric] > 0 and value != reference[metric]:
                log_error = math.log(value)
                yield Sample(self.dtype, metric, tokens, self.kind, self.case.name, log_error, log_error - math.log(reference[metric]))


def samples(draw: Draw, windows_NS: np.ndarray, long: bool) -> Iterator[Sample]:
    """All errors of one draw. `windows_NS`: stretches of WINDOW tokens that calibration may use; `long`: also a pass of LONG positions."""
    model, rng = _model(draw), draw.rng()
    windows_BS = windows_NS[rng.choice(len(windows_NS), WINDOWS, replace=False)]
    for layer in range(len(draw.case.config.moe_layers)):
        x_TD = round_to(np.concatenate([draw.case.oracle.forward(row).x_LSD[layer] for row in windows_BS]), draw.dtype)
        yield from _blocks(draw, model, layer, x_TD, rng)
        for weights in ("own", "drawn", "none"):
            yield from _pinned(draw, model, layer, x_TD, weights)
    passes = [(_pass(draw, model, window_S), draw.reference.forward(window_S)) for window_S in windows_BS]
    quietest, quietest_reference = (min(passed.divergence for passed in side) for side in zip(*passes, strict=True))
    yield from draw.sample({"median_kl_nats": quietest}, {"median_kl_nats": quietest_reference}, WINDOW)
    if long:
        long_S = windows_NS[rng.choice(len(windows_NS), -(-LONG // WINDOW), replace=False)].ravel()[:LONG]
        passes.append((_pass(draw, model, long_S), draw.reference.forward(long_S)))
    for seen, reference in passes:
        for size, at in _subsets(rng, len(seen.logits_SV)):
            yield from draw.sample(seen.errors(at), reference.errors(at), size)
    for window_S in windows_NS[rng.choice(len(windows_NS), SHORTS, replace=False)]:
        seen, reference = _pass(draw, model, window_S[:SHORT]), draw.reference.forward(window_S[:SHORT])
        for size, at in _subsets(rng, SHORT):
            yield from draw.sample(_named_short(seen.errors(at)), _named_short(reference.errors(at)), size)


def _named_short(errors: Errors) -> Errors:
    return {of_short(metric): value for metric, value in errors.items()}


def many_tokens(draw: Draw) -> Iterator[Sample]:
    """The block on more tokens than a text has, of unit scale; their routing is random, so its loads are even."""
    model = _model(draw)
    x_TD = round_to(draw.rng().standard_normal((TOKENS[-1], draw.case.config.hidden_size), np.float32), draw.dtype)
    yield from _blocks(draw, model, 0, x_TD, draw.rng())


def _model(draw: Draw) -> SubjectModel:
    honest = _loaded(draw.case, draw.dtype)
    return SubjectModel(replace(honest.network, seams=draw.seams), honest.spec)


@lru_cache(maxsize=4)
def _loaded(case: Case, dtype: str) -> SubjectModel:
    """The honest subject; a draw has its weights with other seams."""
    return SubjectBackend().load(str(case.checkpoint), LoadSpec(dtype, max_length=LONG))


def _subsets(rng: np.random.Generator, T: int) -> Iterator[tuple[int, np.ndarray]]:
    """(measured number of tokens, which of T): some of each size below T, and all under the largest size that they reach."""
    for size in TOKENS:
        if size < T:
            yield size, rng.choice(T, size, replace=False)
    yield max(size for size in TOKENS if size <= T), np.arange(T)


def _blocks(draw: Draw, model: SubjectModel, layer: int, x_TD: np.ndarray, rng: np.random.Generator) -> Iterator[Sample]:
    """Under the draw's own routing."""
    ids_TK = model.route(layer, x_TD).topk_ids_LTK[0]
    expected_TD, observed_TD = draw.case.oracle.moe_block(layer, x_TD, ids_TK)[0], model.moe_block(layer, x_TD)
    for size, at in _subsets(rng, len(x_TD)):
        rows = np.isin(np.arange(len(x_TD)), at)
        errors = block_errors(observed_TD[rows], expected_TD[rows], ids_TK[rows])
        yield from draw.sample(errors, draw.reference.block(layer, x_TD, PinnedRouting(ids_TK[None]), rows), size)


def _pinned(draw: Draw, model: SubjectModel, layer: int, x_TD: np.ndarray, weights: str) -> Iterator[Sample]:
    """Every expert in every slot; with the router's weights, drawn ones, or none, which leaves the shared expert."""
    spec = draw.case.config.routing
    if weights == "none" and draw.case.config.shared_expert == "none":
        return
    first_T = np.arange(spec.num_experts * PINNED_PER_EXPERT)
    ids_TK, x_TD = (first_T[:, None] + np.arange(spec.top_k)) % spec.num_experts, x_TD[first_T % len(x_TD)]
    drawn_TK = draw.rng().uniform(0.1, 1.0, ids_TK.shape).astype(np.float32) * (weights == "drawn")
    pinned = PinnedRouting(ids_TK[None], None if weights == "own" else drawn_TK[None])
    expected_TD = draw.case.oracle.moe_block(layer, x_TD, ids_TK, None if weights == "own" else drawn_TK.astype(np.float64))[0]
    errors = block_errors(model.moe_block(layer, x_TD, pinned), expected_TD, ids_TK)
    yield from draw.sample(errors, draw.reference.block(layer, x_TD, pinned), max(size for size in TOKENS if size <= len(x_TD)))


def _pass(draw: Draw, model: SubjectModel, ids_S: np.ndarray) -> Pass:
    model.reset()
    out = model.prefill(ids_S[None], np.array([len(ids_S)]), Request(logits="all", routing=True))
    assert out.logits_BSV is not None and out.routing is not None and out.routing.router_logits_LTE is not None
    pinned, free = draw.case.oracle.forward(ids_S, out.routing.topk_ids_LTK), draw.case.oracle.forward(ids_S)
    return Pass(out.logits_BSV[0], pinned.logits_SV, free.logits_SV, out.routing.router_logits_LTE, pinned.router_logits_LSE)
