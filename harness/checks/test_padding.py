"""PAD: ragged batches. Legend: B batch, S sequence."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.implementations.interface import Request, Unsupported
from moe_harness.judge.errors import logit_metrics
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import clause
from moe_harness.suite.drivers import changes, pinned_request, prefill, prefill_and_decode, request, valid
from moe_harness.suite.judgements import both_rounded, judge_traces
from moe_harness.suite.situations import DECODED, ragged, with_nan_embedding
from moe_harness.suite.subject import Subject


@clause("PAD-01", "In a ragged batch every row gets what it would get alone")
@pytest.mark.parametrize("padding", ["right", "left"])
def test_ragged_batch_equals_rows_alone(subject: Subject, verdict: Verdict, padding: str) -> None:
    subject.needs("prefill", "decode", f"{padding}_padding")
    input_ids_BS, lengths_B, continuations_BS = ragged(subject, padding)
    traces = prefill_and_decode(subject.model(), input_ids_BS, lengths_B, DECODED, request(subject, padding), continuations_BS)
    judge_traces(subject, verdict, traces, about=f"of lengths {lengths_B.tolist()}, {padding} padding")
    if "routing" in subject.capabilities.features:
        verdict.judge(*_mask_metrics(subject, input_ids_BS, lengths_B, padding), about=f"lengths {lengths_B.tolist()}, {padding} padding")
    verdict.require(tokens=32)


def _mask_metrics(subject: Subject, input_ids_BS: np.ndarray, lengths_B: np.ndarray, padding: str) -> list[Metric]:
    """Routing tells its pads from its tokens, and drops no token."""
    asked = Request(logits="none", routing=True, padding=padding)
    routing = subject.model().prefill(input_ids_BS, lengths_B, asked).routing
    assert routing is not None and routing.mask_T is not None, "a ragged batch's routing comes without a mask"
    wanted_BS = np.zeros(input_ids_BS.shape, bool)
    for b, length in enumerate(lengths_B):
        wanted_BS[b, valid(input_ids_BS.shape[1], int(length), padding)] = True
    dropped = 0 if routing.dropped_LTK is None else int(routing.dropped_LTK[:, wanted_BS.ravel()].sum())
    wrong = int(np.sum(routing.mask_T != wanted_BS.ravel()))
    return [Metric("wrong_mask", wrong, 0), Metric("dropped_tokens", dropped, 0)]


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
            *logit_metrics(last[b], trace.logits_SV[-1:], both_rounded(subject.floors.forward(trace.input_ids_S, at=slice(-1, None)))),
            about=f"row {b} of lengths {lengths_B.tolist()}, {padding} padding",
        )
        verdict.saw(tokens=1)
    verdict.require(tokens=len(lengths_B))


@clause("PAD-03", "What stands at the pads changes no bit of a valid position")
@pytest.mark.parametrize("padding", ["right", "left"])
def test_content_of_pads_changes_nothing(subject: Subject, verdict: Verdict, padding: str) -> None:
    subject.needs("prefill", "pinned", f"{padding}_padding")
    input_ids_BS, lengths_B, _ = ragged(subject, padding)
    pinned = pinned_request(subject, input_ids_BS.size, padding)
    clean = prefill(subject.model(), input_ids_BS, pinned, lengths_B)
    garbage_BS = subject.random(3).integers(0, subject.config.vocab_size, input_ids_BS.shape)
    for b, length in enumerate(lengths_B):
        where = valid(input_ids_BS.shape[1], int(length), padding)
        garbage_BS[b, where] = input_ids_BS[b, where]
    garbled = prefill(subject.model(), garbage_BS, pinned, lengths_B)
    verdict.judge(*changes(clean, garbled), about=f"lengths {lengths_B.tolist()}, {padding} padding")
    verdict.saw(tokens=int(lengths_B.sum()), pads=int(input_ids_BS.size - lengths_B.sum()))
    verdict.require(tokens=32, pads=8)


@clause("PAD-04", "A NaN in the embedding of the pads reaches no valid position")
@pytest.mark.parametrize("padding", ["right", "left"])
def test_nan_at_pads_stays_there(subject: Subject, verdict: Verdict, padding: str) -> None:
    subject.needs("prefill", "decode", "nan_pads", f"{padding}_padding")
    input_ids_BS, lengths_B, following_BS = ragged(subject, padding)
    pad = next(token for token in range(subject.config.vocab_size) if token not in subject.case.prompts_BS)
    outside_BS = np.ones(input_ids_BS.shape, bool)
    for b, length in enumerate(lengths_B):
        outside_BS[b, valid(input_ids_BS.shape[1], int(length), padding)] = False
    input_ids_BS[outside_BS] = pad
    poisoned = with_nan_embedding(subject, pad)
    traces = prefill_and_decode(poisoned.model(), input_ids_BS, lengths_B, DECODED, request(subject, padding), following_BS)
    oracle = poisoned.case.oracle  # one row at a time and without pads: it never reads the NaN
    judge_traces(subject, verdict, traces, oracle, about=f"lengths {lengths_B.tolist()}, {padding} padding")
    verdict.saw(pads=int(outside_BS.sum()))
    verdict.require(tokens=32, pads=8)
