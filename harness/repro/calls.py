"""The calls of a model exhibit, laid out as grids of tokens, and how a model answers them.

Legend: B batch, S sequence, T = B*S tokens with pads, L MoE layers, K top-k, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moe_harness.implementations.interface import Model, Packed, PinnedRouting, Request, StepOutput
from moe_harness.judge.exhibit import Exhibit

RESET = "reset"


@dataclass(frozen=True)
class Grid:
    """One call. `where`: by row (or packed sequence) the flat indices of its tokens, in order. `ids_LTK`: the candidate's selections, known
    at `known_T`."""

    kind: str
    ids_BS: np.ndarray
    lengths: np.ndarray | None
    padding: str
    pinned: PinnedRouting | None
    where: Mapping[int, np.ndarray]
    ids_LTK: np.ndarray
    known_T: np.ndarray


def grids(exhibit: Exhibit) -> list[Grid]:
    """The exhibit's calls, in order. The rows are those after the last reset."""
    calls = exhibit.facts["calls"]
    resets = [i for i, call in enumerate(calls) if call["kind"] == RESET]
    taken: dict[int, int] = dict.fromkeys(exhibit.facts["rows"], 0)
    return [_grid(exhibit, i, call, taken if i > max(resets, default=-1) else {}) for i, call in enumerate(calls)]


def row_grids(places: Sequence[Grid]) -> list[Grid]:
    """Those that the rows came from: all after the last reset."""
    resets = [i for i, place in enumerate(places) if place.kind == RESET]
    return list(places[max(resets, default=-1) + 1 :])


def pinned_row(exhibit: Exhibit, row: int) -> PinnedRouting | None:
    """(L, S, K) ids, and weights or None, that were pinned for a row; None where nothing was."""
    places = row_grids(grids(exhibit))
    pins = [(place.pinned, place.where[row]) for place in places]
    ids = [pin.topk_ids_LTK[:, where] for pin, where in pins if pin is not None]
    weights = [pin.topk_weights_LTK[:, where] for pin, where in pins if pin is not None and pin.topk_weights_LTK is not None]
    if len(ids) != len(places):
        return None
    return PinnedRouting(np.concatenate(ids, axis=1), np.concatenate(weights, axis=1) if len(weights) == len(places) else None)


def _grid(exhibit: Exhibit, i: int, call: Mapping[str, str], taken: dict[int, int]) -> Grid:
    assert exhibit.config is not None
    arrays, L, K = exhibit.arrays, len(exhibit.config.moe_layers), exhibit.config.routing.top_k
    ids_BS, lengths = arrays[f"call{i}.ids"], arrays.get(f"call{i}.lengths")
    where = _where(call, ids_BS, lengths)
    ids_LTK, known_T = np.zeros((L, ids_BS.size, K), np.int64), np.zeros(ids_BS.size, bool)
    for row in taken:
        shown, start = arrays.get(f"row{row}.ids_LSK"), taken[row]
        taken[row] += len(where[row])
        if shown is not None:
            ids_LTK[:, where[row]] = shown[:, start : taken[row]]
            known_T[where[row]] = True
    pinned_ids = arrays.get(f"call{i}.pinned_ids")
    pinned = None if pinned_ids is None else PinnedRouting(pinned_ids, arrays.get(f"call{i}.pinned_weights"))
    return Grid(call["kind"], ids_BS, lengths, call["padding"], pinned, where, ids_LTK, known_T)


def _where(call: Mapping[str, str], ids_BS: np.ndarray, lengths: np.ndarray | None) -> dict[int, np.ndarray]:
    B, S = ids_BS.shape
    if call["kind"] == RESET:
        return {}
    flat_BS = np.arange(B * S).reshape(B, S)
    if call["kind"] == "packed":
        assert lengths is not None
        return {i: np.arange(a, b) for i, (a, b) in enumerate(zip(lengths, lengths[1:], strict=False))}
    lengths_B = np.full(B, S) if lengths is None else lengths
    right = call["padding"] == "right"
    return {b: flat_BS[b, :n] if right else flat_BS[b, S - n :] for b, n in enumerate(map(int, lengths_B))}


def run(model: Model, exhibit: Exhibit, places: Sequence[Grid], routing: bool = True) -> dict[int, dict[str, np.ndarray]]:
    """What the model answers, by row: `logits_SV`, and, where it shows its routing, `ids_LSK`, `weights_LSK`, `router_logits_LSE`."""
    found: dict[int, list[dict[str, np.ndarray]]] = {row: [] for row in exhibit.facts["rows"]}
    for place in places:
        if place.kind == RESET:
            model.reset()
            found = {row: [] for row in found}
            continue
        out = _call(model, place, routing)
        for row, parts in found.items():
            if row in place.where:
                parts.append(_answer(out, place.where[row]))
    return {row: _joined(parts) for row, parts in found.items()}


def _call(model: Model, place: Grid, routing: bool) -> StepOutput:
    request = Request(logits="all", routing=routing, padding=place.padding, pinned=place.pinned)
    if place.kind == "decode":
        return model.decode(np.ascontiguousarray(place.ids_BS[:, 0]), request)
    assert place.lengths is not None
    if place.kind == "packed":
        assert isinstance(model, Packed), "the model has no prefill_packed"
        return model.prefill_packed(place.ids_BS[0], place.lengths, request)
    return model.prefill(place.ids_BS, place.lengths, request)


def _answer(out: StepOutput, where: np.ndarray) -> dict[str, np.ndarray]:
    assert out.logits_BSV is not None, "logits were asked for, none came"
    found = {"logits_SV": out.logits_BSV.reshape(-1, out.logits_BSV.shape[-1])[where]}
    if out.routing is not None:
        shown = out.routing
        parts = {"ids_LSK": shown.topk_ids_LTK, "weights_LSK": shown.topk_weights_LTK, "router_logits_LSE": shown.router_logits_LTE}
        found |= {name: part[:, where] for name, part in parts.items() if part is not None}
    return found


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts], axis=0 if name == "logits_SV" else 1) for name in parts[0]}
