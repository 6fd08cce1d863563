"""BATCH: what a row gets does not depend on its neighbours. Legend: B batch, S sequence.

Changing the SIZE of a batch may change rounding. Changing the CONTENT of other rows may change the experts' loads, and so the shapes of
their matrix products; with the routing pinned the shapes stay, and so must every bit.
"""

from __future__ import annotations

import numpy as np

from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import clause
from moe_harness.suite.drivers import changes, pinned_request, prefill, prefill_and_decode, request
from moe_harness.suite.judgements import judge_traces
from moe_harness.suite.situations import excerpts, text, with_nan_embedding
from moe_harness.suite.subject import Subject

LENGTH, DECODED = 16, 2


@clause("BATCH-01", "A row gets the same, within rounding, in a batch of 1, 2, 3, 5 or 8")
def test_any_batch_size_equals_oracle(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode")
    tokens_BS = excerpts(subject, 8, LENGTH + DECODED)
    for rows in (1, 2, 3, 5, 8):
        head_BS, lengths_B = tokens_BS[:rows, :LENGTH].copy(), np.full(rows, LENGTH)
        traces = prefill_and_decode(subject.model(), head_BS, lengths_B, DECODED, request(subject), tokens_BS[:rows, LENGTH:])
        judge_traces(subject, verdict, traces, about=f"of {rows}")
    verdict.require(tokens=96)


@clause("BATCH-02", "The content of other rows changes no bit of a row")
def test_content_of_neighbours_changes_nothing(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "pinned")
    tokens_BS = excerpts(subject, 4, LENGTH)
    pinned = pinned_request(subject, tokens_BS.size)
    before = prefill(subject.model(), tokens_BS, pinned)
    for kept in range(len(tokens_BS)):
        others_BS = text(subject, 4, LENGTH, seed=10 + kept)
        others_BS[kept] = tokens_BS[kept]
        after = prefill(subject.model(), others_BS, pinned)
        verdict.judge(*changes(before[kept : kept + 1], after[kept : kept + 1]), about=f"row {kept}")
        verdict.saw(tokens=LENGTH)
    verdict.require(tokens=tokens_BS.size)


@clause("BATCH-03", "A NaN in one row reaches no other row")
def test_nan_in_one_row_stays_there(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode")
    tokens_BS = excerpts(subject, 5, LENGTH + DECODED)
    poison = next(token for token in range(subject.config.vocab_size) if token not in tokens_BS)
    tokens_BS[0, 0] = tokens_BS[3, 5] = poison
    poisoned = with_nan_embedding(subject, poison)
    head_BS, lengths_B = tokens_BS[:, :LENGTH].copy(), np.full(len(tokens_BS), LENGTH)
    traces = prefill_and_decode(poisoned.model(), head_BS, lengths_B, DECODED, request(subject), tokens_BS[:, LENGTH:])
    clean = [trace for b, trace in enumerate(traces) if b not in (0, 3)]
    judge_traces(subject, verdict, clean, poisoned.case.oracle, about="beside rows with a NaN")
    verdict.require(tokens=48)
