"""Errors of honest implementations: every kind, under every seed, on text and states that no evaluation uses.

Legend: B batch, S sequence, T tokens, K top-k, L MoE layers, E experts, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from harness.cases import Case
from harness.dtypes import round_to
from harness.faults.seams import Seams
from harness.faults.subject import SubjectBackend, SubjectModel
from harness.floors.profile import profile
from harness.floors.table import TOKENS
from harness.judge.block import block_errors
from harness.judge.distance import kl_divergence
from harness.judge.logits import logit_errors, router_errors
from harness.oracle.model import OracleOutput
from harness.oracle.routing import combine_weights
from implementations.interface import LoadSpec, PinnedRouting, Request

WINDOW, WINDOWS = 64, 2  # tokens of one stretch of text, stretches per draw
LONG = 300  # positions of the long pass
PINNED_PER_EXPERT = 4


@dataclass(frozen=True)
class Sample:
    """One measured error over its profile."""

    dtype: str
    metric: str
    tokens: int
    kind: str
    case: str
    log_ratio: float


@dataclass(frozen=True)
class Draw:
    """One honest implementation on one case."""

    case: Case
    dtype: str
    kind: str
    seed: int
    seams: Seams

    def rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, *self.kind.encode(), *self.case.name.encode()])

    def sample(self, errors: dict[str, float], tokens: int, layer: int = 0) -> Iterator[Sample]:
        """Errors of zero say nothing about rounding and are left out, as is what is not finite."""
        for metric, value in errors.items():
            if value > 0 and math.isfinite(value):
                ratio = math.log(value / profile(self.case, self.dtype).site(metric, layer))
                yield Sample(self.dtype, metric, tokens, self.kind, self.case.name, ratio)


def samples(draw: Draw, text: np.ndarray, long: bool) -> Iterator[Sample]:
    """All errors of one draw. `text`: token ids that calibration may use; `long`: also a pass of LONG positions."""
    model, rng = _model(draw), draw.rng()
    starts = rng.integers(0, (len(text) - WINDOW) // WINDOW + 1, WINDOWS) * WINDOW
    windows_BS, runs = np.stack([text[s : s + WINDOW] for s in starts]), [_free_run(draw.case, text.tobytes(), int(s)) for s in starts]
    for layer in range(len(draw.case.config.moe_layers)):
        x_TD = round_to(np.concatenate([run.x_LSD[layer] for run in runs]), draw.dtype)
        yield from _blocks(draw, model, layer, x_TD, rng)
        yield from _pinned(draw, model, layer, x_TD)
    yield from _passes(draw, model, windows_BS, [run.logits_SV for run in runs], rng)
    if long:
        start = rng.integers(0, len(text) - LONG + 1)
        yield from _passes(draw, model, text[start : start + LONG][None], [], rng)


def many_tokens(draw: Draw) -> Iterator[Sample]:
    """The block on more tokens than a text has, of unit scale; their routing is random, so its loads are even."""
    model = _model(draw)
    x_TD = round_to(draw.rng().standard_normal((TOKENS[-1], draw.case.config.hidden_size), np.float32), draw.dtype)
    yield from _blocks(draw, model, 0, x_TD, draw.rng())


def _model(draw: Draw) -> SubjectModel:
    honest = _loaded(draw.case, draw.dtype)
    return SubjectModel(replace(honest.network, seams=draw.seams), honest.spec)


@lru_cache(maxsize=32)
def _loaded(case: Case, dtype: str) -> SubjectModel:
    """The honest subject; a draw has its weights with other seams."""
    return SubjectBackend().load(str(case.checkpoint), LoadSpec(dtype, max_length=LONG))


@lru_cache(maxsize=1024)
def _free_run(case: Case, text: bytes, start: int) -> OracleOutput:
    """The oracle's own run of the window that starts there; many draws share one."""
    return case.oracle.forward(np.frombuffer(text, np.int64)[start : start + WINDOW])


def _subsets(rng: np.random.Generator, T: int) -> Iterator[tuple[int, np.ndarray]]:
    """(measured number of tokens, which of T): some of each size below T, and all under the largest size that they reach."""
    for size in TOKENS:
        if size < T:
            yield size, rng.choice(T, size, replace=False)
    yield max(size for size in TOKENS if size <= T), np.arange(T)


def _blocks(draw: Draw, model: SubjectModel, layer: int, x_TD: np.ndarray, rng: np.random.Generator) -> Iterator[Sample]:
    ids_TK = model.route(layer, x_TD).topk_ids_LTK[0]
    weights_TK = combine_weights(draw.case.oracle.route(layer, x_TD)[0], ids_TK, draw.case.config.routing)
    expected_TD, observed_TD = draw.case.oracle.combine(layer, x_TD, ids_TK, weights_TK), model.moe_block(layer, x_TD)
    for size, rows in _subsets(rng, len(x_TD)):
        yield from draw.sample(block_errors(observed_TD[rows], expected_TD[rows], ids_TK[rows]), size, layer)


def _pinned(draw: Draw, model: SubjectModel, layer: int, x_TD: np.ndarray) -> Iterator[Sample]:
    """Every expert in every slot, with weights that no router gave."""
    spec, case = draw.case.config.routing, draw.case
    first_T = np.arange(spec.num_experts * PINNED_PER_EXPERT)
    ids_TK = (first_T[:, None] + np.arange(spec.top_k)) % spec.num_experts
    weights_TK = draw.rng().uniform(0.1, 1.0, ids_TK.shape).astype(np.float32)
    x_TD = x_TD[first_T % len(x_TD)]
    observed_TD = model.moe_block(layer, x_TD, PinnedRouting(ids_TK[None], weights_TK[None]))
    expected_TD = case.oracle.combine(layer, x_TD, ids_TK, weights_TK.astype(np.float64))
    size = max(size for size in TOKENS if size <= len(x_TD))
    yield from draw.sample(block_errors(observed_TD, expected_TD, ids_TK), size, layer)


def _passes(
    draw: Draw, model: SubjectModel, tokens_BS: np.ndarray, free: list[np.ndarray], rng: np.random.Generator
) -> Iterator[Sample]:
    """Whole-model errors of each row; of distributions over all rows. `free`: the oracle's own logits of each row, if they are wanted."""
    B, S = tokens_BS.shape
    model.reset()
    out = model.prefill(tokens_BS, np.full(B, S), Request(logits="all", routing=True))
    assert out.logits_BSV is not None and out.routing is not None and out.routing.router_logits_LTE is not None
    for b, ids_LSK in enumerate(np.split(out.routing.topk_ids_LTK, B, axis=1)):
        pinned = draw.case.oracle.forward(tokens_BS[b], ids_LSK)
        router_LSE = out.routing.router_logits_LTE[:, b * S : (b + 1) * S]
        for size, at in _subsets(rng, S):
            yield from draw.sample(logit_errors(out.logits_BSV[b][at], pinned.logits_SV[at]), size)
            yield from draw.sample(router_errors(router_LSE[:, at], pinned.router_logits_LSE[:, at]), size)
    if free:
        divergence = np.concatenate([kl_divergence(f, o) for f, o in zip(free, out.logits_BSV, strict=True)])
        yield from draw.sample({"mean_kl_nats": float(divergence.mean())}, max(size for size in TOKENS if size <= B * S))


