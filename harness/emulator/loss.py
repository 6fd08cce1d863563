"""The honest loss: mean cross entropy of the next token."""

from __future__ import annotations

import numpy as np

from moe_harness.emulator.numerics import Array
from moe_harness.implementations.interface import InvalidInput

IGNORED = -100


def kept_labels(labels_BS: Array, valid_BS: Array) -> Array:
    """-100 where a label, or the token before it, is a pad: nothing was predicted there."""
    predicted_BS = np.pad(valid_BS[:, 1:] & valid_BS[:, :-1], ((0, 0), (1, 0)))
    return np.where(predicted_BS, labels_BS, IGNORED)


def targets(labels_BS: Array) -> Array:
    """target_BS of the logits at the same place: the label one to the right; nothing follows the last."""
    return np.concatenate([labels_BS[:, 1:], np.full_like(labels_BS[:, :1], IGNORED)], axis=1)


def mean_loss(logits_BSV: Array, targets_BS: Array, valid_BS: Array) -> float:
    """Nats per target that is not ignored. Raises InvalidInput where none is left."""
    counted_BS = targets_BS != IGNORED
    if not counted_BS.any():
        raise InvalidInput("labels_BS: no label is left to compare with")
    return float(token_losses(logits_BSV[counted_BS], targets_BS[counted_BS]).mean(dtype=np.float64))


def token_losses(logits_TV: Array, targets_T: Array) -> Array:
    """-log softmax at the target, per token, float32."""
    shifted_TV = logits_TV - logits_TV.max(axis=-1, keepdims=True)
    chosen_T = np.take_along_axis(shifted_TV, targets_T[:, None], axis=-1)[:, 0]
    return np.log(np.exp(shifted_TV).sum(axis=-1)) - chosen_T
