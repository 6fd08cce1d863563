"""PACK: several sequences in one row. Legend: T tokens, S sequence."""

from __future__ import annotations

import numpy as np

from moe_harness.implementations.interface import Packed, Request
from moe_harness.judge.errors import logit_metrics
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.drivers import changes, packed, pinned_request, request
from moe_harness.suite.judgements import both_rounded, judge_traces, refuses
from moe_harness.suite.situations import excerpts
from moe_harness.suite.subject import Subject

LENGTHS = (9, 1, 17, 12)


@clause("PACK-01", "Packed sequences get what each gets alone")
def test_packed_equals_sequences_alone(subject: Subject, verdict: Verdict) -> None:
    model, sequences = _model(subject), _sequences(subject)
    traces = packed(model, sequences, request(subject))
    judge_traces(subject, verdict, traces, about=f"of lengths {LENGTHS}")
    last = model.prefill_packed(np.concatenate(sequences), _offsets(), Request(logits="last")).logits_BSV
    assert last is not None and last.shape[:2] == (1, len(LENGTHS)), (
        f"expected one position a sequence, got {None if last is None else last.shape}"
    )
    for i, trace in enumerate(traces):
        limits = both_rounded(subject.floors.forward(trace.input_ids_S, at=slice(-1, None)))
        verdict.judge(*logit_metrics(last[0, i : i + 1], trace.logits_SV[-1:], limits), about=f"`last` of sequence {i}")
    verdict.require(tokens=32)


@clause("PACK-02", "No sequence sees another: the content of one changes no bit of the others")
def test_nothing_leaks_between_packed_sequences(subject: Subject, verdict: Verdict) -> None:
    subject.needs("pinned")
    model, sequences = _model(subject), _sequences(subject)
    pinned = pinned_request(subject, sum(LENGTHS))
    before = packed(model, sequences, pinned)
    for changed in range(len(LENGTHS)):
        other = [s if i != changed else (s + 1) % 256 for i, s in enumerate(sequences)]
        after = packed(model, other, pinned)
        rest = [i for i in range(len(LENGTHS)) if i != changed]
        found = changes([before[i] for i in rest], [after[i] for i in rest])
        verdict.judge(*found, about=f"sequence {changed} of lengths {LENGTHS} changed")
        verdict.saw(tokens=sum(LENGTHS[i] for i in rest))
    verdict.require(tokens=32)


@clause("PACK-03", "Malformed offsets are refused", dtypes=LOGIC)
def test_malformed_offsets_are_refused(subject: Subject, verdict: Verdict) -> None:
    model, stream_T = _model(subject), np.concatenate(_sequences(subject))
    malformed: tuple[list[int], ...] = (
        [],
        [0],
        [0, 5],
        [1, len(stream_T)],
        [0, 9, 9, len(stream_T)],
        [0, 20, 10, len(stream_T)],
        [0, len(stream_T) + 1],
    )
    for offsets in malformed:
        cu_seqlens = np.array(offsets, np.int64)
        refuses(verdict, f"cu_seqlens {offsets}", lambda c=cu_seqlens: model.prefill_packed(stream_T, c, Request()))  # type: ignore[misc]
    verdict.require(refused=len(malformed))


def _model(subject: Subject) -> Packed:
    subject.needs("packed")
    model = subject.model()
    assert isinstance(model, Packed), f"{subject.backend.name} declares `packed` but its model has no prefill_packed"
    return model


def _sequences(subject: Subject) -> list[np.ndarray]:
    return np.split(excerpts(subject, 1, sum(LENGTHS))[0], np.cumsum(LENGTHS)[:-1])


def _offsets() -> np.ndarray:
    return np.cumsum([0, *LENGTHS])
