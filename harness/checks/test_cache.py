"""CACHE: what a KV cache may not change. Legend: B batch, S sequence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from moe_harness.implementations.interface import Generate, GenerationSpec, Loss, Model, Packed, Probe, Request
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.drivers import Trace, after_reset, changes, decode, in_chunks, join, prefill, prefill_and_decode, request
from moe_harness.suite.exhibits import model_exhibit
from moe_harness.suite.judgements import judge_traces, refuses
from moe_harness.suite.situations import hidden_states, text
from moe_harness.suite.subject import MAX_LENGTH, Subject

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
    used = [join([a, b]) for a, b in zip(first, decode(model, prompts_BS[:, 0].copy(), request(subject)), strict=True)]
    model.reset()
    second = after_reset(used, prefill(model, prompts_BS, request(subject)))
    verdict.judge(*changes(first, second), exhibit=partial(model_exhibit, subject, second, second[0]))
    verdict.saw(tokens=prompts_BS.size)
    verdict.require(tokens=32)


@clause("CACHE-03", "A prompt given in two chunks gives what it gives in one")
def test_chunks_equal_whole_prompt(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "chunked_prefill")
    prompts_BS = subject.case.prompts_BS
    split = prompts_BS.shape[1] // 3
    traces = in_chunks(subject.model(), prompts_BS, [split], request(subject))
    judge_traces(subject, verdict, traces, about=f"in chunks of {split} and the rest")
    verdict.require(tokens=32)


@clause("CACHE-04", "Chunks of any size give what the whole prompt gives, and decode goes on after them")
def test_awkward_chunks_equal_whole_prompt(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "chunked_prefill", "decode")
    prompts_BS = subject.case.prompts_BS[:2]
    for sizes in ([1, 7, 16, 3], [1, 1, 1], [15, 1, 16]):
        model, split = subject.model(), prompts_BS.shape[1] - 2
        chunks = in_chunks(model, prompts_BS[:, :split], sizes, request(subject))
        steps = [decode(model, prompts_BS[:, s], request(subject)) for s in range(split, split + 2)]
        traces = [join(list(rows)) for rows in zip(chunks, *steps, strict=True)]
        judge_traces(subject, verdict, traces, about=f"in chunks of {sizes} and the rest, then 2 decoded")
    verdict.require(tokens=96)


@clause("CACHE-05", "A refused call changes nothing: the next step gives the same bits", dtypes=LOGIC)
def test_refused_calls_leave_the_cache_alone(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode")
    undisturbed, disturbed = (_stepwise(subject, verdict, disturb) for disturb in (False, True))
    verdict.judge(*changes(undisturbed, disturbed))
    verdict.require(refused=8)


@clause("CACHE-07", "Probing, packing, loss leave the cache alone; generation leaves it empty", dtypes=LOGIC)
def test_other_calls_leave_the_cache_alone(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode", "reset")
    model, prompts_BS, plain = subject.model(), subject.case.prompts_BS, request(subject)
    for name, call in _other_calls(subject, model).items():
        runs = []
        for disturb in (False, True):
            model.reset()
            prefill(model, prompts_BS[:, :24].copy(), plain)
            if disturb:
                call()
            runs.append(decode(model, prompts_BS[:, 24], plain))
        verdict.judge(*changes(*runs), about=f"after {name}")
        verdict.saw(calls=1)
    if isinstance(model, Generate) and "generate" in subject.capabilities.features:
        fresh = prefill(subject.model(), prompts_BS, plain)
        model.reset()
        model.generate(prompts_BS[:, :8].copy(), np.full(len(prompts_BS), 8), GenerationSpec(2, eos_token_ids=()))
        verdict.judge(*changes(fresh, prefill(model, prompts_BS, plain)), about="after generate")
        verdict.saw(calls=1)
    verdict.require(calls=1)


def _other_calls(subject: Subject, model: Model) -> dict[str, Callable[[], object]]:
    """Calls that the contract says neither read nor write the cache, of the features declared."""
    ids_BS, full_B = text(subject, 2, 8), np.full(2, 8)
    calls: dict[str, Callable[[], object]] = {}
    if isinstance(model, Probe):
        calls["probe"] = lambda: model.moe_block(0, hidden_states(subject, 5))
    if isinstance(model, Packed):
        calls["packed"] = lambda: model.prefill_packed(ids_BS[0], np.array([0, 3, 8]), Request())
    if isinstance(model, Loss):
        calls["loss"] = lambda: model.loss(ids_BS, full_B, ids_BS)
    return {name: call for name, call in calls.items() if name in subject.capabilities.features}


def _stepwise(subject: Subject, verdict: Verdict, disturb: bool) -> list[Trace]:
    """A prefill and decode steps, with bad calls before each step if `disturb`."""
    model, prompts_BS, plain = subject.model(), subject.case.prompts_BS, request(subject)
    traces = [prefill(model, prompts_BS[:, :24].copy(), plain)]
    for step in range(24, 28):
        for what, call in _bad_calls(model, subject).items() if disturb else ():
            refuses(verdict, f"{what} at position {step}", call)
        traces.append(decode(model, prompts_BS[:, step], plain))
    return [join(list(rows)) for rows in zip(*traces, strict=True)]


def _bad_calls(model: Model, subject: Subject) -> dict[str, Callable[[], object]]:
    """What the contract says to refuse in the middle of a sequence."""
    B, V = len(subject.case.prompts_BS), subject.config.vocab_size
    long_BS = np.zeros((B, MAX_LENGTH), np.int64)
    calls: dict[str, Callable[[], object]] = {
        "decode of an id out of range": lambda: model.decode(np.full(B, V), Request()),
        "decode of another number of rows": lambda: model.decode(np.zeros(B + 1, np.int64), Request()),
    }
    if "chunked_prefill" in subject.capabilities.features:
        calls["a chunk past max_length"] = lambda: model.prefill(long_BS, np.full(B, MAX_LENGTH), Request())
    return calls
