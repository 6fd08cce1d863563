"""Faults of what serving engines are made of: slots of requests, graphs of fixed sizes, batches that are filled up."""

from __future__ import annotations

import numpy as np

from moe_harness.emulator import attention, experts
from moe_harness.emulator.cache import Cache, Slots
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.values import KeyView
from moe_harness.mutants.entry import Fault, change

FULL = (16, 32)  # sizes of graphs


def in_ascending_order(asked: list[int]) -> list[int]:
    """The rows of a call are taken for the asked slots from the lowest to the highest."""
    return sorted(asked)


def behind_the_old_request(slots: Slots, slot: int, empty: Cache) -> Cache:
    return slots.caches.get(slot, empty)


def unchecked(slots: Slots, slots_B: Array, rows: int) -> list[int]:
    return np.asarray(slots_B).tolist()


def one_key_short(view: KeyView) -> Array:
    """A prompt as long as its graph: the last query does not see itself."""
    mask_BQM = attention.visible_keys(view)
    if view.query_BQ.shape[1] in FULL:
        mask_BQM[:, -1, -1] = False
    return mask_BQM


def filled_with_token_0(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    """Empty places of the experts hold token 0, and what comes of them is multiplied by 0 and added."""
    y_TD = experts.combine(y_TKD, weights_TK, ids_TK, rounding)
    return y_TD + np.float32(0) * y_TD[:1]


FAULTS: tuple[Fault, ...] = (
    Fault("slots-in-ascending-order", "The rows of a call read and write the asked slots in ascending order, whichever is whose.",
          None, change(seat=in_ascending_order), ("SLOT-01",), trigger="slots in another order"),
    Fault("slot-keeps-its-old-request", "A new request goes on behind what the slot held.",
          None, change(begin=behind_the_old_request), ("SLOT-01",), trigger="a slot that is used again"),
    Fault("slots-unchecked", "A slot outside the cache, or given twice, is taken.",
          None, change(admit_slots=unchecked), ("SLOT-02",)),
    Fault("graph-loops-over-hit-experts", "The graph loops over the experts that were hit: it exports, and its shapes depend on data.",
          None, change(compiled_experts=experts.run_experts), ("STATIC-01",)),
    Fault("full-graph-loses-a-key", "In a prompt that fills its graph, the last position does not see itself.",
          None, change(visible_keys=one_key_short), ("PARITY-11",), trigger="16 or 32 tokens"),
    Fault("empty-place-holds-token-0", "Places of experts that nobody takes hold token 0 times 0: its NaN is everybody's.",
          None, change(combine=filled_with_token_0), ("BATCH-03",), trigger="a NaN in the first token of a batch"),
)  # fmt: skip
