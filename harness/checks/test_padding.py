"""PAD: ragged batches. Legend: B batch, S sequence."""

from __future__ import annotations

import numpy as np
import pytest

from harness.checks.against_oracle import judge_traces
from harness.checks.clause import clause
from harness.checks.passes import prefill_and_decode, request, valid
from harness.subject import Subject
from harness.verdict import Verdict

DECODED = 4


@clause("PAD-01", "In a ragged batch every row gets what it would get alone")
@pytest.mark.parametrize("padding", ["right", "left"])
def test_ragged_batch_equals_rows_alone(subject: Subject, verdict: Verdict, padding: str) -> None:
    subject.needs("prefill", "decode", f"{padding}_padding")
    input_ids_BS, lengths_B, continuations_BS = ragged(subject, padding)
    traces = prefill_and_decode(subject.model(), input_ids_BS, lengths_B, DECODED, request(subject, padding), continuations_BS)
    judge_traces(subject, verdict, traces, about=f"of lengths {lengths_B.tolist()}, {padding} padding")
    verdict.require(tokens=32)


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
