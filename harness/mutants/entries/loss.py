"""Faults of the loss: which labels count, against which logits, and how they are averaged."""

from __future__ import annotations

import numpy as np

from moe_harness.emulator.numerics import Array
from moe_harness.emulator.outputs import IGNORED, mean_loss, token_losses
from moe_harness.mutants.entry import Fault, change


def labels_as_they_stand(labels_BS: Array) -> Array:
    return labels_BS


def shifted_twice(labels_BS: Array) -> Array:
    return np.concatenate([labels_BS[:, 2:], np.full_like(labels_BS[:, :2], IGNORED)], axis=1)


def wrapped_round(labels_BS: Array) -> Array:
    return np.roll(labels_BS, -1, axis=1)


def ignored_as_token_0(labels_BS: Array) -> Array:
    return np.concatenate([labels_BS[:, 1:].clip(min=0), np.full_like(labels_BS[:, :1], IGNORED)], axis=1)


def _sum(logits_BSV: Array, targets_BS: Array) -> float:
    counted_BS = targets_BS != IGNORED
    return float(token_losses(logits_BSV[counted_BS], targets_BS[counted_BS]).sum(dtype=np.float64))


def summed(logits_BSV: Array, targets_BS: Array, valid_BS: Array) -> float:
    return _sum(logits_BSV, targets_BS)


def over_all_tokens(logits_BSV: Array, targets_BS: Array, valid_BS: Array) -> float:
    return _sum(logits_BSV, targets_BS) / targets_BS.size


def over_valid_tokens(logits_BSV: Array, targets_BS: Array, valid_BS: Array) -> float:
    return _sum(logits_BSV, targets_BS) / int(valid_BS.sum())


def mean_of_row_means(logits_BSV: Array, targets_BS: Array, valid_BS: Array) -> float:
    rows = [(l[None], t[None], v[None]) for l, t, v in zip(logits_BSV, targets_BS, valid_BS, strict=True) if (t != IGNORED).any()]  # noqa: E741
    return float(np.mean([mean_loss(*row) for row in rows]))


def in_bits(logits_BSV: Array, targets_BS: Array, valid_BS: Array) -> float:
    return mean_loss(logits_BSV, targets_BS, valid_BS) / float(np.log(2))


def pads_as_labels(logits_BSV: Array, targets_BS: Array, valid_BS: Array) -> float:
    """Pads come as -100 and are counted as the id that numpy's wrap-around makes of it."""
    targets_BS = np.where(valid_BS | (targets_BS != IGNORED), targets_BS, logits_BSV.shape[-1] + IGNORED)
    return mean_loss(logits_BSV, targets_BS, valid_BS)


def labels_at_pads(labels_BS: Array, valid_BS: Array) -> Array:
    return labels_BS


FAULTS: tuple[Fault, ...] = (
    Fault("loss-labels-at-pads", "Whoever forgets to write -100 at the pads trains on them.",
          None, change(kept_labels=labels_at_pads), ("LOSS-02",), trigger="a ragged batch with labels at its pads"),
    Fault("loss-not-shifted", "Each position is compared with its own token.",
          None, change(targets=labels_as_they_stand), ("LOSS-01", "LOSS-02")),
    Fault("loss-shifted-twice", "The collator shifts, and the model shifts again.", None, change(targets=shifted_twice), ("LOSS-01",)),
    Fault("loss-wraps-round", "np.roll: the last position is compared with the first label.",
          None, change(targets=wrapped_round, kept_labels=labels_at_pads), ("LOSS-01",)),
    Fault("loss-ignored-as-token-0", "-100 is clipped to token 0 and counts.", None, change(targets=ignored_as_token_0), ("LOSS-02",)),
    Fault("loss-summed", "The sum instead of the mean.", None, change(mean_loss=summed), ("LOSS-01", "LOSS-02")),
    Fault("loss-over-all-tokens", "Ignored labels and pads add nothing to the sum, but count in the mean.",
          None, change(mean_loss=over_all_tokens), ("LOSS-02",)),
    Fault("loss-over-valid-tokens", "Divided by the number of valid tokens, labelled or not.",
          None, change(mean_loss=over_valid_tokens), ("LOSS-02",)),
    Fault("loss-mean-of-row-means", "Rows with few labels weigh as much as rows with many.",
          None, change(mean_loss=mean_of_row_means), ("LOSS-02",), trigger="rows with different numbers of labels"),
    Fault("loss-in-bits", "log2 instead of the natural logarithm.", None, change(mean_loss=in_bits), ("LOSS-01",)),
    Fault("loss-pads-count", "Labels of -100 at pads index the logits from the end and count.",
          None, change(mean_loss=pads_as_labels), ("LOSS-02",), trigger="a ragged batch"),
)  # fmt: skip
