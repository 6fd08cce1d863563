"""One call's tokens, checked and placed: which are valid, at which position each stands, and what the cache held before.

Host-side numpy only. Positions count valid tokens, so the padding side vanishes here: nothing behind this file knows about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from moe_harness.implementations.interface import InvalidInput


@dataclass(frozen=True)
class Batch:
    """`ids_BS`: 0 at pads, whatever the caller put there. `positions_BS`: at pads the row's last position, so that a pad attends to
    something. `last_B`: column of each row's last valid token. `starts_B`, `ends_B`: cached positions of each row before and after."""

    ids_BS: np.ndarray
    valid_BS: np.ndarray
    positions_BS: np.ndarray
    last_B: np.ndarray
    starts_B: np.ndarray
    ends_B: np.ndarray

    @cached_property
    def is_uniform(self) -> bool:
        """No pads, and all rows start at the same position: slices serve instead of indices."""
        return bool(self.valid_BS.all() and (self.starts_B == self.starts_B[0]).all())


def place(ids_BS: np.ndarray, lengths_B: np.ndarray, padding: str, starts_B: np.ndarray) -> Batch:
    """`ids_BS` and `lengths_B` must have passed `check_prompt`."""
    S = ids_BS.shape[1]
    first_B = S - lengths_B if padding == "left" else np.zeros_like(lengths_B)
    offsets_BS = np.arange(S)[None] - first_B[:, None]
    valid_BS = (offsets_BS >= 0) & (offsets_BS < lengths_B[:, None])
    ends_B = starts_B + lengths_B
    positions_BS = np.where(valid_BS, starts_B[:, None] + offsets_BS, ends_B[:, None] - 1)
    return Batch(np.where(valid_BS, ids_BS, 0), valid_BS, positions_BS, first_B + lengths_B - 1, starts_B, ends_B)


def check_prompt(ids_BS: Any, lengths_B: Any, padding: str, max_batch: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, lengths) as int64. Raises InvalidInput: not integers, wrong rank, empty, too many rows, lengths outside 1..S, unknown side,
    an id outside [0, V)."""
    ids_BS, lengths_B = integers("input_ids", ids_BS, 2), integers("lengths", lengths_B, 1)
    rows, columns = ids_BS.shape
    if rows == 0 or columns == 0:
        raise InvalidInput(f"empty prompt: input_ids of shape {ids_BS.shape}")
    if rows > max_batch:
        raise InvalidInput(f"{rows} rows, loaded with max_batch {max_batch}")
    if lengths_B.shape != (rows,):
        raise InvalidInput(f"lengths of shape {lengths_B.shape} for {rows} rows")
    if lengths_B.min() < 1 or lengths_B.max() > columns:
        raise InvalidInput(f"lengths must be 1..{columns}, got {lengths_B.tolist()}")
    if padding not in ("left", "right"):
        raise InvalidInput(f"padding must be 'left' or 'right', got {padding!r}")
    check_range(ids_BS, vocab_size)
    return ids_BS, lengths_B


def check_tokens(token_ids_B: Any, vocab_size: int) -> np.ndarray:
    """One id per row, as int64. Raises InvalidInput."""
    ids_B = integers("token_ids", token_ids_B, 1)
    if ids_B.size:
        check_range(ids_B, vocab_size)
    return ids_B


def check_range(ids: np.ndarray, vocab_size: int, name: str = "token id") -> None:
    """Raises InvalidInput for an id outside [0, V), at a pad too."""
    if ids.min() < 0 or ids.max() >= vocab_size:
        where = np.argwhere((ids < 0) | (ids >= vocab_size))[0].tolist()
        raise InvalidInput(f"{name} {ids[tuple(where)]} at {where} is outside [0, {vocab_size})")


def check_room(batch: Batch, max_length: int) -> None:
    """Raises InvalidInput for a row longer than the cache."""
    if batch.ends_B.max() > max_length:
        raise InvalidInput(f"{batch.ends_B.max()} positions, loaded with max_length {max_length}")


def integers(name: str, value: Any, rank: int) -> np.ndarray:
    """As int64. Raises InvalidInput: another dtype or rank."""
    array = np.asarray(value)
    if array.ndim != rank or not (array.dtype.kind in "iu" or array.size == 0):
        raise InvalidInput(f"{name} must be an integer array of rank {rank}, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)
