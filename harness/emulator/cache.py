"""The subject's key/value cache: slots shared by all rows, each holding a token with its position, or a pad. Under continuous batching each
request has a cache of one row, in a slot of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moe_harness.emulator.numerics import Array
from moe_harness.implementations.interface import InvalidInput, ModelConfig


@dataclass
class Cache:
    """`used` slots are filled. `keys`, `values`: (layers, B, N, slots, P). `segment_BM`: which of several packed sequences a slot belongs
    to, 0 where nothing is packed. `next_B`: the position of each row's next token."""

    keys: Array
    values: Array
    position_BM: Array
    valid_BM: Array
    segment_BM: Array
    next_B: Array
    used: int = 0

    @property
    def rows(self) -> int:
        """Rows of the batch it holds; 0 when it is empty."""
        return len(self.next_B) if self.used else 0

    def reserve(self, positions_BS: Array, valid_BS: Array, segment_BS: Array) -> None:
        """Marks the next S slots; `append` fills them layer by layer."""
        span = slice(self.used, self.used + positions_BS.shape[1])
        self.position_BM[:, span], self.valid_BM[:, span], self.segment_BM[:, span] = positions_BS, valid_BS, segment_BS
        self.used = span.stop


def new_cache(config: ModelConfig, batch: int, max_length: int) -> Cache:
    shape = (config.num_hidden_layers, batch, config.num_key_value_heads, max_length, config.head_dim)
    slots = np.zeros((batch, max_length), np.int64)
    keys, values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    return Cache(keys, values, slots, slots.astype(bool), slots.copy(), np.zeros(batch, np.int64))


def append(cache: Cache, layer: int, keys_BNSP: Array, values_BNSP: Array) -> None:
    """Writes the S newest slots of one layer."""
    span = slice(cache.used - keys_BNSP.shape[2], cache.used)
    cache.keys[layer][:, :, span], cache.values[layer][:, :, span] = keys_BNSP, values_BNSP


def reset(cache: Cache) -> None:
    """Empties the cache; nothing of the old prompt can be seen afterwards."""
    cache.used = 0
    cache.next_B[:] = 0
    cache.valid_BM[:] = False


@dataclass
class Slots:
    """`caches`: of the slots in use."""

    count: int
    caches: dict[int, Cache] = field(default_factory=dict)


def admit_slots(slots: Slots, slots_B: Array, rows: int) -> list[int]:
    """The slots of a call's rows. Raises InvalidInput."""
    slots_B = np.asarray(slots_B)
    if slots_B.dtype.kind not in "iu" or slots_B.shape != (rows,):
        raise InvalidInput(f"slots_B: {rows} integers are expected, got {slots_B.dtype} of shape {slots_B.shape}")
    found: list[int] = slots_B.tolist()
    if len(set(found)) != rows or min(found) < 0 or max(found) >= slots.count:
        raise InvalidInput(f"slots_B: different ones of 0 .. {slots.count - 1} are expected, got {found}")
    return found


def in_use(slots: Slots, asked: list[int]) -> None:
    """Raises InvalidInput for an empty one."""
    if empty := [slot for slot in asked if slot not in slots.caches]:
        raise InvalidInput(f"slot {empty[0]} is empty: decode before any prefill")


def seat(asked: list[int]) -> list[int]:
    """The slot whose cache each row of a call reads and writes."""
    return asked


def begin(slots: Slots, slot: int, empty: Cache) -> Cache:
    """The cache that a new request gets: an empty one, whatever the slot held."""
    return empty
