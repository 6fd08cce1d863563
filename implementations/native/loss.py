"""Which labels count, and the mean cross entropy over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moe_harness.implementations.common.batch import check_range, integers
from moe_harness.implementations.interface import InvalidInput

IGNORED = -100


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
