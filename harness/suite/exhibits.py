"""From what a check holds in its hands to an exhibit. Called only when a judgement fails. Legend: T tokens, K top-k, D hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moe_harness.implementations.families.weights import parameter_counts
from moe_harness.implementations.interface import ModelConfig, PinnedRouting, Routing
from moe_harness.judge.exhibit import BLOCK, MODEL, ROUTER, SECOND, Exhibit, layer_tensors, one_layer_config
from moe_harness.judge.limit import Limits
from moe_harness.oracle.model import Oracle
from moe_harness.repro.calls import pinned_row
from moe_harness.repro.fit import LIMIT
from moe_harness.suite.bounds.reference import one_layer_weights
from moe_harness.suite.drivers import Trace
from moe_harness.suite.subject import Subject
from moe_harness.suite.transparent import TransparentRouter

Arrays = dict[str, np.ndarray]
SECOND_TOKENS = 96


def block_exhibit(subject: Subject, layer: int, x_TD: np.ndarray, pinned: PinnedRouting, y_TD: np.ndarray, judged_T: np.ndarray) -> Exhibit:
    """One MoE block on given hidden states. `pinned`: L = 1; without weights the experts are those that the candidate's router chose."""
    arrays = {"x_TD": x_TD, "ids_TK": pinned.topk_ids_LTK[0], "y_TD": y_TD, "judged_T": judged_T}
    weights_TK = one_layer_weights(pinned)
    if weights_TK is not None:
        arrays["weights_TK"] = weights_TK.astype(np.float32)
    oracle, limits = subject.case.oracle, subject.floors.block(layer, x_TD, pinned, judged_T)
    tensors = layer_tensors(oracle.tensors, subject.config, layer)
    if sum(tensor.nbytes for tensor in tensors.values()) > LIMIT:
        arrays["expected_TD"] = oracle.moe_block(layer, x_TD, arrays["ids_TK"], weights_TK)[0].astype(np.float32)
    facts = {"layer": layer, "pinned": weights_TK is not None}
    return Exhibit(BLOCK, one_layer_config(subject.config), subject.dtype, facts, limits, tensors, arrays)


def router_exhibit(subject: Subject, layer: int, x_TD: np.ndarray, answer: Routing) -> Exhibit:
    """The layer-th MoE layer's router on given hidden states."""
    tensors = layer_tensors(subject.case.oracle.tensors, subject.config, layer, "router")
    return _router(subject, one_layer_config(subject.config), tensors, x_TD, answer, {"layer": layer, "exact": False})


def transparent_exhibit(subject: Subject, router: TransparentRouter) -> Exhibit | None:
    """The last input that a transparent router was given, with its answer, and its answer on a second, larger one."""
    if not router.seen:
        return None
    facts = {"layer": 0, "exact": True, "bare": subject.router_spec is not None}
    exhibit = _router(subject, one_layer_config(router.config), router.tensors, *router.seen[-1], facts)
    second_TD = router.input(second_logits(router.spec.num_experts))
    answers = _answers(second_TD, router.layer(second_TD))
    return replace(exhibit, arrays={**exhibit.arrays, **{SECOND + name: array for name, array in answers.items()}})


def second_logits(num_experts: int) -> np.ndarray:
    """(SECOND_TOKENS, E) on the grid of sixteenths: a third around zero, a third all negative, a third of few values and so with ties."""
    draw, shape = np.random.default_rng(11), (SECOND_TOKENS // 3, num_experts)
    parts = (draw.integers(-64, 65, shape), draw.integers(-64, 0, shape), 8 * draw.integers(-4, 5, shape))
    return np.concatenate(parts).astype(np.float32) / 16


def _router(subject: Subject, config: ModelConfig, tensors: Arrays, x_TD: np.ndarray, answer: Routing, facts: dict) -> Exhibit:
    return Exhibit(ROUTER, config, subject.dtype, facts, {}, tensors, _answers(x_TD, answer))


def _answers(x_TD: np.ndarray, answer: Routing) -> Arrays:
    arrays = {"x_TD": x_TD, "ids_TK": answer.topk_ids_LTK[0], "weights_TK": answer.topk_weights_LTK[0]}
    return arrays if answer.router_logits_LTE is None else {**arrays, "logits_TE": answer.router_logits_LTE[0]}


def model_exhibit(subject: Subject, traces: Sequence[Trace], judged: Trace, oracle: Oracle | None = None) -> Exhibit:
    """The calls that gave these rows, of which one was judged. The weights are those of the whole checkpoint, or none if it is larger
    than a capsule."""
    oracle = oracle or subject.case.oracle
    arrays = {f"call{i}.{name}": array for i, call in enumerate(judged.calls) for name, array in call.arrays().items()}
    arrays |= {f"row{trace.row}.{name}": array for trace in traces for name, array in trace.arrays().items()}
    calls = [{"kind": call.kind, "padding": call.padding} for call in judged.calls]
    facts = {"row": judged.row, "rows": [trace.row for trace in traces], "calls": calls}
    exhibit = Exhibit(MODEL, oracle.config, subject.dtype, facts, {}, {}, arrays)
    limits = {f"row{t.row}.{name}": limit for t in traces for name, limit in _limits(subject, exhibit, t).items()}
    if parameter_counts(oracle.config)[0] * 2 < LIMIT:
        return replace(exhibit, limits=limits, tensors={name: np.asarray(oracle.tensors[name]) for name in oracle.tensors})
    expected_SV = oracle.forward(judged.input_ids_S, judged.ids_LSK).logits_SV.astype(np.float32)
    return replace(exhibit, limits=limits, arrays={**arrays, "expected_SV": expected_SV})


def _limits(subject: Subject, exhibit: Exhibit, trace: Trace) -> Limits:
    return subject.floors.forward(trace.input_ids_S, pinned_row(exhibit, trace.row))
