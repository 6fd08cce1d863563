"""Where a whole model's error enters: by layer, by call, by position, by row. Legend: S sequence, L MoE layers, E experts, K top-k."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe_harness.diagnosis.operators import Finding
from moe_harness.diagnosis.rejudge import is_pinned, pinned_run
from moe_harness.diagnosis.router import describe_weights, illegal
from moe_harness.judge.certificate import certify, ranking_allowance
from moe_harness.judge.exhibit import Exhibit
from moe_harness.judge.rounding import UNIT_ROUNDOFF, weight_error
from moe_harness.oracle.model import OracleOutput
from moe_harness.oracle.routing import combine_weights
from moe_harness.repro.calls import Grid, grids, row_grids


@dataclass(frozen=True)
class Spread:
    """Where the judged row is wrong. `off_S`: positions over the bound. `decoded_S`: those that a decode call gave; `later_S`: those that a
    second or later prefill gave."""

    off_S: np.ndarray
    decoded_S: np.ndarray
    later_S: np.ndarray


def find_in_model(exhibit: Exhibit) -> Finding:
    """Router by router, layer by layer; then by where the error shows in the row."""
    if not exhibit.tensors:
        return Finding(("experts", "attention"), evidence=("the weights are not in the capsule, so no closer look is possible",))
    expected = pinned_run(exhibit)
    for layer in range(len(expected.x_LSD)):
        found = _router(exhibit, expected, layer)
        if found is not None:
            return found
    spread = _spread(exhibit, expected)
    first, seen = _first_layer(exhibit, expected)
    operators, said = _place(exhibit, spread, first)
    made = first - 1 if first and operators[0] == "experts" else first  # what a router is given wrong, the block before it has made
    return Finding(operators, made, evidence=(seen, said), tokens=tuple(int(s) for s in np.flatnonzero(spread.off_S)[:8]))


def _router(exhibit: Exhibit, expected: OracleOutput, layer: int) -> Finding | None:
    """What a layer's router made of its own logits: these may be wrong by what came before, but ids and weights must follow from them."""
    assert exhibit.config is not None
    row, spec = f"row{exhibit.facts['row']}.", exhibit.config.routing
    ids, weights, logits = (exhibit.arrays.get(row + name) for name in ("ids_LSK", "weights_LSK", "router_logits_LSE"))
    if ids is None or weights is None or logits is None or is_pinned(exhibit):
        return None
    wrong_ids = illegal(ids[layer], spec)
    if wrong_ids.any():
        return Finding(("routing ids",), layer, evidence=("an expert is repeated or out of range",))
    own_SE = logits[layer].astype(np.float64)
    if not np.isfinite(own_SE).all():
        return None
    delta = UNIT_ROUNDOFF[exhibit.dtype] * np.abs(own_SE)
    certificate = certify(exhibit.oracle.ranking(layer, own_SE), ids[layer], ranking_allowance(delta, spec), spec)
    if certificate.uncertified:
        said = f"the selection of {certificate.uncertified} of {len(own_SE)} tokens does not follow from the candidate's own router logits"
        return Finding(("routing ids",), layer, evidence=(said,))
    wanted_SK = combine_weights(own_SE, ids[layer], spec)
    off_S = ~(np.abs(weights[layer] - wanted_SK) <= wanted_SK * weight_error(exhibit.dtype) * 2).all(-1)
    if off_S.any():
        said = "the weights do not follow from the candidate's own router logits: "
        return Finding(("routing weights",), layer, evidence=(said + describe_weights(weights[layer][off_S], wanted_SK[off_S]),))
    return None


def _first_layer(exhibit: Exhibit, expected: OracleOutput) -> tuple[int | None, str]:
    """(the first MoE layer whose router logits are off, in words)."""
    shown = exhibit.arrays.get(f"row{exhibit.facts['row']}.router_logits_LSE")
    if shown is None:
        return None, "the candidate shows no router logits, so the layer cannot be told"
    for layer, logits_SE in enumerate(expected.router_logits_LSE):
        error = np.sqrt(np.mean((shown[layer] - logits_SE) ** 2)) / np.sqrt(np.mean(logits_SE**2))
        bound = exhibit.limit("router_logit_error")
        if not error <= bound:
            where = "before the first MoE block" if layer == 0 else f"in the MoE block of layer {layer - 1} or the attention after it"
            return layer, f"router logits are first off in MoE layer {layer} (by {error / bound:.3g} bounds): {where}"
    return None, "all router logits are right: the error enters in the last MoE block or behind it"


def _spread(exhibit: Exhibit, expected: OracleOutput) -> Spread:
    row = exhibit.facts["row"]
    kept = exhibit.facts.get("kept_positions", slice(None))
    wanted_SV, came_SV = expected.logits_SV[kept], exhibit.arrays[f"row{row}.logits_SV"]
    errors_S = np.sqrt(np.mean((came_SV - wanted_SV) ** 2, axis=-1)) / np.sqrt(np.mean(wanted_SV**2))
    kinds = [(place.kind, i) for i, place in enumerate(row_grids(grids(exhibit))) for _ in place.where[row]]
    decoded, later = np.array([kind == "decode" for kind, _ in kinds]), np.array([kind == "prefill" and i > 0 for kind, i in kinds])
    return Spread(~(errors_S <= exhibit.limit("worst_position_error")), decoded[kept], later[kept])


def _place(exhibit: Exhibit, spread: Spread, layer: int | None) -> tuple[tuple[str, ...], str]:
    """(suspects, what speaks against them)."""
    off_S = spread.off_S
    if (spread.decoded_S.any() or spread.later_S.any()) and not off_S[~(spread.decoded_S | spread.later_S)].any():
        which = "decoded positions" if spread.decoded_S.any() else "positions after the first chunk"
        return ("positions", "cache", "attention"), f"only {which} are wrong: what one pass computes is right"
    if any(place.kind == "packed" for place in grids(exhibit)) and exhibit.facts["row"] > 0:
        return ("packing", "attention"), "a packed sequence other than the first is wrong"
    if layer is None and exhibit.arrays.get(f"row{exhibit.facts['row']}.router_logits_LSE") is not None:
        return ("experts", "combine", "head"), "what follows the last router is wrong"
    if len(off_S) and not off_S[0] and off_S.any():
        return ("attention", "positions"), "the first position, which attends to itself alone, is right"
    if _padded(grids(exhibit)):
        return ("calls and padding", "attention"), "the batch is ragged"
    if layer == 0:
        return ("attention", "embedding", "norm", "conversion"), "every position is wrong, the first included"
    return ("experts", "combine", "shared expert", "conversion"), "every position is wrong, the first included"


def _padded(places: list[Grid]) -> bool:
    return any(place.kind == "prefill" and place.lengths is not None and len(set(map(int, place.lengths))) > 1 for place in places)
