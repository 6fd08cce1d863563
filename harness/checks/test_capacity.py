"""DROP: experts with a limited number of places. Legend: B batch, S sequence, T tokens, L MoE layers, E experts, K top-k, D hidden.

Whom a capacity drops follows from the experts that were chosen, exactly; what comes out then follows from the weights that are left.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from moe_harness.cases.strategies import explore
from moe_harness.cases.synthetic import routing_of, small
from moe_harness.implementations.interface import PinnedRouting, Probe, Request, Routing
from moe_harness.judge.errors import logit_metrics
from moe_harness.judge.metric import Metric
from moe_harness.judge.rounding import weight_allowance
from moe_harness.judge.routing import weights_within
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.block_runs import BlockRun, block_metrics
from moe_harness.suite.capacity import (
    computed,
    expected_drops,
    options,
    places,
    renormalized,
    smallest_score,
    too_late,
    weights_of_the_rest,
)
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.situations import hidden_states, like, ragged, text
from moe_harness.suite.subject import Subject
from moe_harness.suite.transparent import one_layer

EXAMPLES = 12  # each loads a model
FACTORS = (0.25, 0.5, 1.0, 1.25, 1.75)
BLOCK_TOKENS = 32


@clause("DROP-01", "A capacity drops who comes too late and nobody else; the weights of the rest add up", dtypes=LOGIC)
def test_who_comes_too_late_is_dropped(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "routing", "capacity")
    drawn = {
        "experts": st.sampled_from([4, 8, 12]),
        "top_k": st.integers(1, 3),
        "factor": st.sampled_from(FACTORS),
        "tokens": st.integers(2, 64),
        "seed": st.integers(0, 99),
    }

    @explore(subject.workshop.thorough, EXAMPLES, shrink=False, reseed=subject.case.seed, **drawn)
    def check(experts: int, top_k: int, factor: float, tokens: int, seed: int) -> None:
        routing = routing_of(subject.config.family, experts, top_k, subject.config.routing.normalize_topk)
        model = like(subject, "capacity", small(subject.config.family, routing=routing))
        rows, columns = computed(model.model(), (1, tokens))
        length = tokens if rows == 1 else columns  # of several rows, pads would stand in front of others
        _judge(model, verdict, factor, text(model, rows, length, seed), np.full(rows, length), mask_padding=False)

    verdict.require(tokens=64, dropped=64)


@clause("DROP-02", "Rows of a ragged batch whose pads take no places: dropped exactly, and computed exactly without")
def test_pads_take_no_places_where_they_are_masked(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "routing", "right_padding", "capacity")
    ids_BS, lengths_B, _ = ragged(subject, "right")
    rows = max(len(ids_BS), computed(subject.model(), ids_BS.shape)[0])
    for factor in (0.25, 0.75):
        _judge(subject, verdict, factor, np.resize(ids_BS, (rows, ids_BS.shape[1])), np.resize(lengths_B, rows), mask_padding=True)
    verdict.require(tokens=64, dropped=64)


@clause("DROP-03", "A NaN token reaches no other one, whoever is dropped", dtypes=LOGIC)
def test_nan_token_stays_alone_among_the_dropped(subject: Subject, verdict: Verdict) -> None:
    """An empty or lost place that is filled with some token times zero would hand its NaN on."""
    subject.needs("capacity")
    for factor in (0.5, 1.0):
        probe = subject.model(options=options(factor))
        assert isinstance(probe, Probe), f"{subject.backend.name} has no `probe`, by which this is asked"
        x_TD = hidden_states(subject, BLOCK_TOKENS)
        x_TD[0] = np.nan
        pinned, dropped_TK = _left(subject, probe.route(0, x_TD), factor)
        run = BlockRun(np.nan_to_num(x_TD), pinned, probe.moe_block(0, x_TD.copy()), np.arange(BLOCK_TOKENS) > 0)
        verdict.judge(*block_metrics(subject, run), about=f"factor {factor}")
        verdict.saw(tokens=BLOCK_TOKENS - 1, dropped=int(dropped_TK.sum()))
    verdict.require(dropped=8)


def _left(subject: Subject, answer: Routing, factor: float) -> tuple[PinnedRouting, np.ndarray]:
    """What a capacity leaves of a layer's routing, and dropped_TK."""
    spec = subject.config.routing
    ids_TK, weights_TK = one_layer(answer, BLOCK_TOKENS, spec.top_k)
    dropped_TK = too_late(ids_TK, spec.num_experts, places(spec, factor, BLOCK_TOKENS))
    left_TK = renormalized(np.nan_to_num(weights_TK), dropped_TK, spec)
    return PinnedRouting(ids_TK[None], left_TK[None].astype(np.float32)), dropped_TK


def _judge(subject: Subject, verdict: Verdict, factor: float, ids_BS: np.ndarray, lengths_B: np.ndarray, mask_padding: bool) -> None:
    """One prefill: who is dropped, with which weights the rest is combined, and the logits of that."""
    model = subject.model(options=options(factor, mask_padding))
    subject.needs_logits("all")
    out = model.prefill(ids_BS, lengths_B, Request(logits="all", routing=True))
    routing, spec = out.routing, subject.config.routing
    assert out.logits_BSV is not None, "logits were asked for, none came"
    assert routing is not None, "`routing` is declared and was asked for; none came"
    about = f"E={spec.num_experts}, k={spec.top_k}, factor {factor}, rows of {lengths_B.tolist()}"
    valid_T, expected_LTK = routing.mask_T, expected_drops(model, routing, ids_BS.shape, spec, factor)
    wrong = int(np.sum(_shown_drops(routing)[:, valid_T] != expected_LTK[:, valid_T]))
    verdict.judge(Metric("wrongly_dropped", wrong, 0), *_weight_metrics(subject, routing, expected_LTK), about=about)
    for b, length in enumerate(lengths_B):
        _judge_row(subject, verdict, ids_BS[b, :length], out.logits_BSV[b, :length], _row(routing, ids_BS.shape[1], b, int(length)), about)
    verdict.saw(dropped=int(expected_LTK.sum()))


def _shown_drops(routing: Routing) -> np.ndarray:
    """None says that there is no capacity: then nobody is dropped, as a factor that leaves room for all asks."""
    return np.zeros(routing.topk_ids_LTK.shape, bool) if routing.dropped_LTK is None else routing.dropped_LTK


def _weight_metrics(subject: Subject, routing: Routing, dropped_LTK: np.ndarray) -> list[Metric]:
    """Against the router's own logits, where it shows them."""
    if routing.router_logits_LTE is None:
        return []
    parts = (routing.router_logits_LTE, routing.topk_ids_LTK, dropped_LTK, routing.topk_weights_LTK)
    return [
        metric for layer in zip(*(part[:, routing.mask_T] for part in parts), strict=True) for metric in _layer_metrics(subject, *layer)
    ]


def _layer_metrics(
    subject: Subject, logits_TE: np.ndarray, ids_TK: np.ndarray, dropped_TK: np.ndarray, weights_TK: np.ndarray
) -> list[Metric]:
    spec = subject.config.routing
    expected_TK = weights_of_the_rest(logits_TE, ids_TK, dropped_TK, spec)
    allowance_TK = weight_allowance(smallest_score(logits_TE, ids_TK, dropped_TK, spec), np.zeros(()), subject.dtype)
    kept_TK = expected_TK > 0
    within = weights_within(weights_TK[kept_TK], expected_TK[kept_TK], np.broadcast_to(2 * allowance_TK, kept_TK.shape)[kept_TK])
    return [within, Metric("weights_of_dropped", int(np.sum(weights_TK[dropped_TK] != 0)), 0)]


def _row(routing: Routing, columns: int, b: int, length: int) -> PinnedRouting:
    """A row's experts and weights as they were combined."""
    at = slice(b * columns, b * columns + length)
    return PinnedRouting(routing.topk_ids_LTK[:, at].copy(), routing.topk_weights_LTK[:, at].copy())


def _judge_row(subject: Subject, verdict: Verdict, ids_S: np.ndarray, logits_SV: np.ndarray, pinned: PinnedRouting, about: str) -> None:
    assert pinned.topk_weights_LTK is not None
    expected = subject.case.oracle.forward(ids_S, pinned.topk_ids_LTK, pinned.topk_weights_LTK.astype(np.float64))
    verdict.judge(*logit_metrics(logits_SV, expected.logits_SV, subject.floors.forward(ids_S, pinned)), about=about)
    verdict.saw(tokens=len(ids_S))
