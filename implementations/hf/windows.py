"""Random windows of a text, as batches of next-byte prediction. Legend: B batch, S sequence, N bytes of the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Tuple

import numpy as np

from moe_harness.implementations.interface import ModelConfig

IGNORED = -100  # label that torch's cross entropy skips


@dataclass(frozen=True)
class Windows:
    """Random windows of `text` as (input_ids_BS, labels_BS), int64. A quarter of the rows starts a paragraph, with BOS before it; an eighth
    stops at the end of one, with EOS and then PAD, whose labels are IGNORED. `tokens` is B*S; lengths take turns."""

    text: bytes
    config: ModelConfig
    tokens: int
    lengths: Tuple[int, ...]

    def batches(self, seed: int) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        random, step = np.random.default_rng(seed), 0
        bytes_N = np.frombuffer(self.text, np.uint8).astype(np.int64)
        ends = _paragraph_ends(bytes_N)
        while True:
            length = min(self.lengths[step % len(self.lengths)], len(bytes_N) - 2)
            rows = [self._row(random, bytes_N, ends, length + 1) for _ in range(max(1, self.tokens // length))]
            yield self._shifted(np.stack(rows))
            step += 1

    def _row(self, random: np.random.Generator, bytes_N: np.ndarray, ends: np.ndarray, size: int) -> np.ndarray:
        kind, last = random.random(), len(bytes_N) - size
        start = int(random.integers(last + 1))
        starts = ends[ends <= last]
        if kind < 0.25 and self.config.bos_token_id is not None and len(starts):
            start = int(starts[random.integers(len(starts))])
            return np.concatenate([[self.config.bos_token_id], bytes_N[start : start + size - 1]])
        row = bytes_N[start : start + size].copy()
        return self._stopped(row, ends - start) if kind > 0.875 else row

    def _stopped(self, row: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Ended by EOS after its last whole paragraph, if that lies in the second half."""
        inside = ends[(ends >= len(row) // 2) & (ends < len(row))]
        if len(inside) and self.config.eos_token_ids and self.config.pad_token_id is not None:
            row[inside[-1] :] = self.config.pad_token_id
            row[inside[-1]] = self.config.eos_token_ids[0]
        return row

    def _shifted(self, rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        labels = rows[:, 1:].copy()
        if self.config.pad_token_id is not None:
            labels[labels == self.config.pad_token_id] = IGNORED
        return np.ascontiguousarray(rows[:, :-1]), labels


def _paragraph_ends(bytes_N: np.ndarray) -> np.ndarray:
    """Positions just after a blank line."""
    return np.flatnonzero((bytes_N[:-1] == 10) & (bytes_N[1:] == 10)) + 2
