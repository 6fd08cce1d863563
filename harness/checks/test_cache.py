"""CACHE: what a KV cache may not change. Legend: B batch, S sequence."""

from __future__ import annotations

import numpy as np

from harness.checks.against_oracle import judge_traces
from harness.checks.clause import clause
from harness.checks.passes import join, prefill, prefill_and_decode, request
from harness.judge.metric import Metric
from harness.subject import Subject
from harness.verdict import Verdict

DECODED = 12


@clause("CACHE-01", "Prefill and decode give what one pass over the whole sequence gives, batched and alone")
def test_decode_equals_full_pass(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode")
    for prompts_BS in (subject.case.prompts_BS, subject.case.prompts_BS[:1]):  # one row alone: decode then routes a single token
        split = prompts_BS.shape[1] - DECODED
        head_BS = np.ascontiguousarray(prompts_BS[:, :split])
        lengths_B = np.full(len(prompts_BS), split)
        traces = prefill_and_decode(subject.model(), head_BS, lengths_B, DECODED, request(subject), prompts_BS[:, split:])
        judge_traces(subject, verdict, traces, about=f"of {len(prompts_BS)}")
        verdict.saw(decoded=DECODED * len(traces))
    verdict.require(decoded=8)


@clause("CACHE-02", "After a reset the same prompt gives the same bits")
def test_reset_repeats_bit_for_bit(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode", "reset")
    model, prompts_BS = subject.model(max_length=256), subject.case.prompts_BS  # room for a stale cache to be appended to
    first = prefill(model, prompts_BS, request(subject))
    model.decode(prompts_BS[:, 0].copy(), request(subject))
    model.reset()
    second = prefill(model, prompts_BS, request(subject))
    changed = sum(int(np.sum(a.logits_SV != b.logits_SV)) for a, b in zip(first, second, strict=True))
    verdict.judge(Metric("changed_logits", changed, 0))
    verdict.saw(tokens=prompts_BS.size)


@clause("CACHE-03", "A prompt given in two chunks gives what it gives in one")
def test_chunks_equal_whole_prompt(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "chunked_prefill")
    prompts_BS, model = subject.case.prompts_BS, subject.model()
    split = prompts_BS.shape[1] // 3
    chunks = [np.ascontiguousarray(part) for part in np.split(prompts_BS, [split], axis=1)]
    traces = [prefill(model, chunk, request(subject)) for chunk in chunks]
    judge_traces(subject, verdict, [join(list(rows)) for rows in zip(*traces, strict=True)], about=f"in chunks of {split} and the rest")
    verdict.require(tokens=32)
