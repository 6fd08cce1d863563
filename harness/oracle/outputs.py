"""The ends of logits, in float64: the distribution that a next token is drawn from, and next-token cross entropy.

Legend: S sequence, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, softmax

from moe_harness.implementations.interface import GenerationSpec


def sampling_distribution(logits_V: np.ndarray, spec: GenerationSpec) -> np.ndarray:
    """Probabilities (V): softmax(logits / temperature); of those the `top_k` likeliest, renormalised; of those the smallest set of the
    likeliest whose probability reaches `top_p`, renormalised. Temperature 0 is greedy. Source: Holtzman et al. 2019; the order of the
    two cuts is that of transformers and vLLM."""
    if not spec.temperature:
        return np.eye(len(logits_V))[int(np.argmax(logits_V))]
    order = np.argsort(-logits_V, kind="stable")
    ranked = softmax(logits_V[order] / spec.temperature)
    if spec.top_k:
        ranked[spec.top_k :] = 0.0
        ranked /= ranked.sum()
    if spec.top_p < 1:
        ranked[np.cumsum(ranked) - ranked >= spec.top_p] = 0.0
    probabilities_V = np.zeros(len(logits_V))
    probabilities_V[order] = ranked / ranked.sum()
    return probabilities_V


IGNORED = -100  # the label that HF and torch leave out


def cross_entropies(logits_SV: np.ndarray, labels_S: np.ndarray) -> np.ndarray:
    """-log p of every label that counts, in nats, under the logits one position before it. Source: transformers' ForCausalLMLoss."""
    counted = np.flatnonzero(labels_S[1:] != IGNORED)
    return -log_softmax(logits_SV[counted], axis=-1)[np.arange(len(counted)), labels_S[1:][counted]]
