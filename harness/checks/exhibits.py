"""From what a check holds in its hands to an exhibit. Called only when a judgement fails. Legend: T tokens, K top-k, D hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.capsule.exhibit import BLOCK, MODEL, ROUTER, SECOND, Exhibit, layer_tensors, one_layer_config
from harness.capsule.fit import LIMIT
from harness.checks.passes import Trace
from harness.checks.transparent import TransparentRouter
from harness.judge import bounds
from harness.oracle.model import Oracle
from harness.subject import Subject
from implementations.interface import ModelConfig, Routing
from implementations.weights import parameter_counts

Arrays = dict[str, np.ndarray]
SECOND_TOKENS = 96


def bounds_of(subject: Subject) -> dict[str, float]:
    """What honest implementations may differ by, by site. A router by itself has no depth."""
    layers, measured = (1, True) if subject.router_spec is not None else subject.depth
    return {
        "block": bounds.BLOCK[subject.dtype],
        "weights": bounds.weight_error(subject.dtype),
        "logits": bounds.logits(subject.dtype, layers, measured),
        "router": bounds.router(subject.dtype, layers, measured),
        "kl": bounds.kl(subject.dtype, layers, measured),
    }


def block_exhibit(
    subject: Subject, layer: int, x_TD: np.ndarray, ids_TK: np.ndarray, y_TD: np.ndarray, **others: np.ndarray | None
) -> Exhibit:
    """One MoE block on given hidden states. `others`: `judged_T` (default: all tokens), `weights_TK` where they were pinned."""
    arrays = {"x_TD": x_TD, "ids_TK": ids_TK, "y_TD": y_TD, "judged_T": np.ones(len(x_TD), bool)}
    arrays |= {name: array for name, array in others.items() if array is not None}
    facts = {"layer": layer, "pinned": "weights_TK" in arrays}
    oracle = subject.case.oracle
    tensors = layer_tensors(oracle.tensors, subject.config, layer)
    if sum(tensor.nbytes for tensor in tensors.values()) > LIMIT:
        arrays["expected_TD"] = _expected_block(oracle, layer, arrays)
    return Exhibit(BLOCK, one_layer_config(subject.config), subject.dtype, facts, bounds_of(subject), tensors, arrays)


def _expected_block(oracle: Oracle, layer: int, arrays: Arrays) -> np.ndarray:
    return oracle.moe_block(layer, arrays["x_TD"], arrays["ids_TK"], arrays.get("weights_TK"))[0].astype(np.float32)


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
    return Exhibit(ROUTER, config, subject.dtype, facts, bounds_of(subject), tensors, _answers(x_TD, answer))


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
    small = parameter_counts(oracle.config)[0] * 2 < LIMIT
    tensors = {name: np.asarray(oracle.tensors[name]) for name in oracle.tensors} if small else {}
    if not tensors:
        arrays["expected_SV"] = oracle.forward(judged.input_ids_S, judged.ids_LSK).logits_SV.astype(np.float32)
    return Exhibit(MODEL, oracle.config, subject.dtype, facts, bounds_of(subject), tensors, arrays)
