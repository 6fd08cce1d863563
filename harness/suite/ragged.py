"""A ragged batch made of the case's prompts. Legend: B batch, S sequence."""

from __future__ import annotations

import numpy as np

from moe_harness.suite.drivers import valid
from moe_harness.suite.subject import Subject

DECODED = 4


def ragged(subject: Subject, padding: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(padded ids, lengths, the next DECODED tokens of each row). Pads hold a legal token, so only the lengths tell them from text."""
    prompts_BS = subject.case.prompts_BS
    B, S = prompts_BS.shape[0], prompts_BS.shape[1] - DECODED
    lengths_B = np.array([S - 1 - (7 * b) % (S // 2) for b in range(B)])
    lengths_B[0] = S
    padded_BS = np.full((B, S), subject.config.pad_token_id or 0, np.int64)
    for b, length in enumerate(lengths_B):
        padded_BS[b, valid(S, int(length), padding)] = prompts_BS[b, :length]
    following = [prompts_BS[b, length : length + DECODED] for b, length in enumerate(lengths_B)]
    return padded_BS, lengths_B, np.stack(following)
