"""DET and MEM: the same call gives the same bits, whatever was there before."""

from __future__ import annotations

import numpy as np

from moe_harness.implementations.interface import Model
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import clause
from moe_harness.suite.drivers import Trace, changes, decode, join, prefill, request
from moe_harness.suite.poison import poisoned_memory
from moe_harness.suite.situations import text
from moe_harness.suite.subject import Subject

DECODED = 4


@clause("DET-01", "The same checkpoint loaded twice gives the same bits")
def test_two_loads_give_the_same_bits(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode")
    with subject.fresh_model() as first, subject.fresh_model() as second:
        before, after = run(first, subject), run(second, subject)
    verdict.judge(*changes(before, after))
    verdict.saw(tokens=sum(len(t.input_ids_S) for t in after))
    verdict.require(tokens=32)


@clause("DET-02", "A call repeated after others, of other shapes, gives the same bits")
def test_a_repeated_call_gives_the_same_bits(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode", "reset")
    with subject.fresh_model() as model:
        before = run(model, subject)
        for rows, length in ((1, 1), (8, 3), (3, 47), (1, 64), (2, 16)):
            model.reset()
            prefill(model, text(subject, rows, length, seed=rows), request(subject))
            model.reset()
            verdict.judge(*changes(before, run(model, subject)), about=f"after {rows} rows of {length}")
            verdict.saw(calls=1)
    verdict.require(calls=5)


@clause("MEM-01", "No result depends on what memory held before")
def test_poisoned_memory_changes_nothing(subject: Subject, verdict: Verdict) -> None:
    """Load, prefill and decode, first as usual, then with every fresh allocation full of wild numbers."""
    subject.needs("prefill", "decode")
    subject.needs_this_process()
    with subject.fresh_model() as model:
        before = run(model, subject)
    with poisoned_memory(), subject.fresh_model() as model:
        after = run(model, subject)
    verdict.judge(*changes(before, after))
    verdict.saw(tokens=sum(len(t.input_ids_S) for t in after))
    verdict.require(tokens=32)


def run(model: Model, subject: Subject) -> list[Trace]:
    """A prefill of all prompts and a few decode steps."""
    prompts_BS, plain = subject.case.prompts_BS, request(subject)
    split = prompts_BS.shape[1] - DECODED
    traces = [prefill(model, np.ascontiguousarray(prompts_BS[:, :split]), plain)]
    traces += [decode(model, prompts_BS[:, s], plain) for s in range(split, split + DECODED)]
    return [join(list(rows)) for rows in zip(*traces, strict=True)]
