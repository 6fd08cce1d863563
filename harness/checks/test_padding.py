"""PAD: ragged batches. Legend: B batch, S sequence."""

from __future__ import annotations

import numpy as np
import pytest

from harness.checks.against_oracle import judge_traces, logit_metrics
from harness.checks.clause import clause
from harness.checks.passes import prefill, prefill_and_decode, request, valid
from harness.subject import Subject
from harness.verdict import Verdict
from implementations.interface import Request, Unsupported

DECODED = 4


@clause("PAD-01", "In a ragged batch every row gets what it would get alone")
@pytest.mark.parametrize("padding", ["right", "left"])
def test_ragged_batch_equals_rows_alone(subject: Subject, verdict: Verdict, padding: str) -> None:
    subject.needs("prefill", "decode", f"{padding}_padding")
    input_ids_BS, lengths_B, continuations_BS = ragged(subject, padding)
    traces = prefill_and_decode(subject.model(), input_ids_BS, lengths_B, DECODED, request(subject, padding), continuations_BS)
    judge_traces(subject, verdict, traces, about=f"of lengths {lengths_B.tolist()}, {padding} padding")
    verdict.require(tokens=32)


@clause("PAD-02", "`last` logits are those of each row's last valid position")
@pytest.mark.parametrize("padding", ["right", "left"])
def test_last_logits_are_of_the_last_valid_position(subject: Subject, verdict: Verdict, padding: str) -> None:
    subject.needs("prefill", f"{padding}_padding")
    if "last" not in subject.capabilities.logits:
        raise Unsupported(f"{subject.backend.name} does not declare `last` logits")
    input_ids_BS, lengths_B, _ = ragged(subject, padding)
    whole = prefill(subject.model(), input_ids_BS, request(subject, padding), lengths_B)
    last = subject.model().prefill(input_ids_BS, lengths_B, Request(logits="last", padding=padding)).logits_BSV
    assert last is not None and last.shape[:2] == (len(lengths_B), 1), (
        f"expected one position a row, got {None if last is None else last.shape}"
    )
    for b, trace in enumerate(whole):
        verdict.judge(
            *logit_metrics(last[b], trace.logits_SV[-1:], subject), about=f"row {b} of lengths {lengths_B.tolist()}, {padding} padding"
        )
        verdict.saw(tokens=1)


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
