"""Several sequences in one row: where each lies, and which queries see which keys; and the mean cross entropy over the labels that count,
for which a batch runs as such a row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Iterator, List

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moe_harness.implementations.common.batch import Batch, check_range, integers, place
from moe_harness.implementations.interface import InvalidInput
from moe_harness.implementations.native.cache import Block, blocks

IGNORED = -100


@dataclass(frozen=True)
class Stream:
    """`bounds`: sequence i is [bounds[i], bounds[i + 1]) of the T tokens; positions start at 0 in each."""

    ids_1T: np.ndarray
    bounds: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.asarray(self.bounds[1:] - self.bounds[:-1])

    @property
    def positions_1T(self) -> np.ndarray:
        return (np.arange(self.bounds[-1]) - np.repeat(self.bounds[:-1], self.lengths))[None]

    def blocks(self, window: int | None, group: int, device: torch.device) -> List[Block]:
        return list(self._blocks(window, group, device))

    def _blocks(self, window: int | None, group: int, device: torch.device) -> Iterator[Block]:
        """Those of every sequence alone, moved to where it lies."""
        for start, length in zip(self.bounds.tolist(), self.lengths.tolist()):
            for block in blocks(_alone(length), window, group, device):
                yield _moved(block, start)


def _alone(length: int) -> Batch:
    lengths_B = np.array([length])
    return place(np.zeros((1, length), np.int64), lengths_B, "right", np.zeros_like(lengths_B))


def _moved(block: Block, start: int) -> Block:
    columns, slots = (slice(part.start + start, part.stop + start) for part in (block.columns, block.slots))
    return replace(block, columns=columns, slots=slots)


def check_stream(input_ids_T: Any, cu_seqlens: Any, vocab_size: int, max_length: int) -> Stream:
    """Raises InvalidInput: no integers, wrong rank, empty, an id outside [0, V), bounds that do not rise from 0 to T, a sequence that is
    longer than `max_length`."""
    ids_T, bounds = integers("input_ids", input_ids_T, 1), integers("cu_seqlens", cu_seqlens, 1)
    if not ids_T.size:
        raise InvalidInput("empty prompt: no token in the stream")
    check_range(ids_T, vocab_size)
    stream = Stream(ids_T[None], bounds)
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != len(ids_T) or stream.lengths.min() < 1:
        raise InvalidInput(f"cu_seqlens must rise from 0 to {len(ids_T)}, got {bounds.tolist()}")
    if stream.lengths.max() > max_length:
        raise InvalidInput(f"a sequence of {stream.lengths.max()} positions, loaded with max_length {max_length}")
    return stream


def valid_stream(ids_BS: np.ndarray, valid_BS: np.ndarray) -> Stream:
    """A padded batch's valid tokens, row by row."""
    return Stream(ids_BS[valid_BS][None], np.concatenate(([0], valid_BS.sum(1).cumsum())))


def check_labels(labels_BS: Any, valid_BS: np.ndarray, vocab_size: int) -> np.ndarray:
    """int64, IGNORED also where a label, or the token before it, is a pad: there nothing was predicted. Raises InvalidInput: not integers
    of the ids' shape, outside [0, V) and not IGNORED, or none left."""
    labels_BS = integers("labels", labels_BS, 2)
    if labels_BS.shape != valid_BS.shape:
        raise InvalidInput(f"labels of shape {labels_BS.shape} for ids of shape {valid_BS.shape}")
    predicted_BS = np.pad(valid_BS[:, 1:] & valid_BS[:, :-1], ((0, 0), (1, 0)))
    kept_BS = np.where(predicted_BS, labels_BS, IGNORED)
    if not (kept_BS != IGNORED).any():
        raise InvalidInput("no label is left to take the loss over")
    check_range(kept_BS[kept_BS != IGNORED], vocab_size, "label")
    return kept_BS


def cross_entropy(logits_TV: Tensor, labels_T: np.ndarray) -> float:
    """Mean, in nats, in float32."""
    return float(F.cross_entropy(logits_TV.float(), torch.from_numpy(labels_T).to(logits_TV.device)))
