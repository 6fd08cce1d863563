"""CACHE: what a KV cache may not change. Legend: B batch, S sequence."""

from __future__ import annotations

import numpy as np

from harness.checks.against_oracle import judge_traces
from harness.checks.clause import clause
from harness.checks.passes import prefill, prefill_and_decode, request
from harness.judge.metric import Metric
from harness.subject import Subject
from harness.verdict import Verdict

DECODED = 12


@clause("CACHE-01", "Prefill and decode give what one pass over the whole sequence gives")
def test_decode_equals_full_pass(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode")
    prompts_BS = subject.case.prompts_BS
    split = prompts_BS.shape[1] - DECODED
    lengths_B = np.full(len(prompts_BS), split)
    head_BS = np.ascontiguousarray(prompts_BS[:, :split])
    traces = prefill_and_decode(subject.model(), head_BS, lengths_B, DECODED, request(subject), prompts_BS[:, split:])
    judge_traces(subject, verdict, traces)
    verdict.saw(decoded=DECODED * len(traces))
    verdict.require(decoded=8)


@clause("CACHE-02", "After a reset the same prompt gives the same bits")
def test_reset_repeats_bit_for_bit(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode", "reset")
    model, prompts_BS = subject.model(), subject.case.prompts_BS
    first = prefill(model, prompts_BS, request(subject))
    model.decode(prompts_BS[:, 0].copy(), request(subject))
    model.reset()
    second = prefill(model, prompts_BS, request(subject))
    changed = sum(int(np.sum(a.logits_SV != b.logits_SV)) for a, b in zip(first, second, strict=True))
    verdict.judge(Metric("changed_logits", changed, 0))
    verdict.saw(tokens=prompts_BS.size)
