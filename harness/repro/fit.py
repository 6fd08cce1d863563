"""Cuts an exhibit down until it fits into a capsule: first what nobody asked for, then the tokens that are right, at last the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from moe_harness.judge.exhibit import BLOCK, MODEL, RECORD, ROUTER, SECOND, Exhibit, is_experts

LIMIT = 5_000_000  # bytes of a capsule
ROOM = LIMIT - 200_000  # for the arrays: the rest is for JSON
KEPT_TOKENS = 16


def fitted(exhibit: Exhibit, room: int = ROOM) -> Exhibit:
    """The first of ever smaller forms that fits; in the end a record without arrays."""
    return next((form for form in _forms(exhibit) if size(form) <= room), Exhibit(RECORD, exhibit.config, exhibit.dtype))


def size(exhibit: Exhibit) -> int:
    """Bytes of all arrays."""
    return sum(array.nbytes for group in (exhibit.tensors, exhibit.arrays) for array in group.values())


def _forms(exhibit: Exhibit) -> Iterator[Exhibit]:
    yield exhibit
    if exhibit.kind == BLOCK:
        yield chosen_experts(exhibit)
        yield (few := chosen_experts(offending_tokens(exhibit)))
        yield replace(few, tensors={})
    elif exhibit.kind == ROUTER:
        yield offending_tokens(exhibit)
    elif exhibit.kind == MODEL:
        yield (alone := judged_row(exhibit))
        yield replace(alone, tensors={})
        yield from (worst_positions(replace(alone, tensors={}), kept) for kept in (64, 16, 4, 1))


def chosen_experts(exhibit: Exhibit) -> Exhibit:
    """Only the weights of experts that some token uses."""
    chosen = tuple(int(e) for e in np.unique(exhibit.arrays["ids_TK"]))
    tensors = {name: t[list(chosen)] if is_experts(name) else t for name, t in exhibit.tensors.items()}
    return replace(exhibit, tensors=tensors, experts=chosen)


def offending_tokens(exhibit: Exhibit) -> Exhibit:
    """Only the tokens that are furthest off."""
    worst = np.sort(np.argsort(-_errors(exhibit), kind="stable")[:KEPT_TOKENS])
    arrays = {name: array[worst] for name, array in exhibit.arrays.items() if not name.startswith(SECOND)}
    return replace(exhibit, arrays=arrays, facts={**exhibit.facts, "kept_tokens": worst.tolist()})


def _errors(exhibit: Exhibit) -> np.ndarray:
    """By token: by how much the output differs; of a router, by how much its sorted ids do."""
    arrays = exhibit.arrays
    if exhibit.kind == ROUTER:
        wanted_TK = exhibit.oracle.route(0, arrays["x_TD"])[1]
        return (np.sort(arrays["ids_TK"]) != np.sort(wanted_TK)).sum(-1)
    expected_TD = arrays["expected_TD"] if "expected_TD" in arrays else exhibit.oracle.moe_block(
        0, arrays["x_TD"], arrays["ids_TK"], arrays.get("weights_TK")
    )[0]  # fmt: skip
    return np.where(arrays["judged_T"], np.linalg.norm(arrays["y_TD"] - expected_TD, axis=-1), -1.0)


def judged_row(exhibit: Exhibit) -> Exhibit:
    """Without what came for the other rows."""
    own = f"row{exhibit.facts['row']}."
    arrays = {name: array for name, array in exhibit.arrays.items() if name.startswith(own) or not name.startswith("row")}
    return replace(exhibit, arrays=arrays, facts={**exhibit.facts, "rows": [exhibit.facts["row"]]})


def worst_positions(exhibit: Exhibit, kept: int) -> Exhibit:
    """Of the logits, expected and come, those at the positions that are furthest off."""
    name = f"row{exhibit.facts['row']}.logits_SV"
    came, expected = exhibit.arrays[name], exhibit.arrays["expected_SV"]
    worst = np.sort(np.argsort(-np.linalg.norm(came - expected, axis=-1), kind="stable")[:kept])
    arrays = {**exhibit.arrays, name: came[worst], "expected_SV": expected[worst]}
    return replace(exhibit, arrays=arrays, facts={**exhibit.facts, "kept_positions": worst.tolist()})
