"""Next-token cross entropy in float64. Legend: S sequence, V vocabulary."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

IGNORED = -100  # the label that HF and torch leave out


def cross_entropies(logits_SV: np.ndarray, labels_S: np.ndarray) -> np.ndarray:
    """-log p of every label that counts, in nats, under the logits one position before it. Source: transformers' ForCausalLMLoss."""
    counted = np.flatnonzero(labels_S[1:] != IGNORED)
    return -log_softmax(logits_SV[counted], axis=-1)[np.arange(len(counted)), labels_S[1:][counted]]
