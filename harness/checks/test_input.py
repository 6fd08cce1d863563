"""INPUT: bad calls are refused with InvalidInput and a message, and the model works on as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_harness.implementations.interface import Model, Request
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.drivers import changes, prefill, request
from moe_harness.suite.judgements import refuses
from moe_harness.suite.subject import MAX_BATCH, MAX_LENGTH, Subject

ROWS, LENGTH = 2, 8
Call = Callable[[Model], object]


@clause("INPUT-01", "An empty prompt is refused", dtypes=LOGIC)
def test_empty_prompt_is_refused(subject: Subject, verdict: Verdict) -> None:
    calls: dict[str, Call] = {
        "no token": lambda model: model.prefill(np.zeros((ROWS, 0), np.int64), np.zeros(ROWS, np.int64), Request()),
        "no row": lambda model: model.prefill(np.zeros((0, LENGTH), np.int64), np.zeros(0, np.int64), Request()),
    }
    if "right_padding" in subject.capabilities.features:
        calls["one row of length 0"] = lambda model: model.prefill(ids(), np.array([LENGTH, 0]), Request())
    _judge(subject, verdict, calls)


@clause("INPUT-02", "A token id out of range is refused, at a pad too", dtypes=LOGIC)
def test_id_out_of_range_is_refused(subject: Subject, verdict: Verdict) -> None:
    V = subject.config.vocab_size
    calls: dict[str, Call] = {}
    for bad in (-1, V, 2**40):
        calls[f"id {bad}"] = lambda model, bad=bad: model.prefill(ids(bad, 3), full(), Request())  # type: ignore[misc]
        if "right_padding" in subject.capabilities.features:
            calls[f"id {bad} at a pad"] = lambda model, bad=bad: model.prefill(ids(bad, LENGTH - 1), full(LENGTH - 1), Request())  # type: ignore[misc]
    if "decode" in subject.capabilities.features:
        for bad in (-1, V, 2**40):
            calls[f"decode of id {bad}"] = lambda model, bad=bad: _after_prefill(model, lambda: model.decode(np.full(ROWS, bad), Request()))  # type: ignore[misc]
    _judge(subject, verdict, calls)


@clause("INPUT-03", "More positions or rows than the model was loaded for are refused", dtypes=LOGIC)
def test_too_much_input_is_refused(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode")
    long_BS, many_BS = np.zeros((1, MAX_LENGTH + 1), np.int64), np.zeros((MAX_BATCH + 1, 4), np.int64)
    edge_BS = np.zeros((1, MAX_LENGTH), np.int64)

    def past_the_edge(model: Model) -> object:
        model.prefill(edge_BS, np.array([MAX_LENGTH]), Request(logits="none"))
        return model.decode(np.zeros(1, np.int64), Request())

    calls: dict[str, Call] = {
        f"{MAX_LENGTH + 1} tokens": lambda model: model.prefill(long_BS, np.array([MAX_LENGTH + 1]), Request()),
        f"decode at position {MAX_LENGTH}": past_the_edge,
        f"{MAX_BATCH + 1} rows": lambda model: model.prefill(many_BS, np.full(MAX_BATCH + 1, 4), Request()),
    }
    _judge(subject, verdict, calls)


@clause("INPUT-04", "Token ids that are not integers are refused, as is an unknown request", dtypes=LOGIC)
def test_wrong_types_are_refused(subject: Subject, verdict: Verdict) -> None:
    calls: dict[str, Call] = {
        "float ids": lambda model: model.prefill(ids().astype(np.float32), full(), Request()),
        "ids of one dimension": lambda model: model.prefill(ids()[0], full(), Request()),
        "logits='some'": lambda model: model.prefill(ids(), full(), Request(logits="some")),
        "padding='middle'": lambda model: model.prefill(ids(), full(LENGTH - 1), Request(padding="middle")),
    }
    if "decode" in subject.capabilities.features:
        calls["float ids in decode"] = lambda model: _after_prefill(model, lambda: model.decode(np.zeros(ROWS, np.float32), Request()))
    _judge(subject, verdict, calls)


@clause("INPUT-05", "Decode before any prefill is refused, after a reset too", dtypes=LOGIC)
def test_decode_before_prefill_is_refused(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode", "reset")

    def after_reset(model: Model) -> object:
        model.prefill(ids(), full(), Request(logits="none"))
        model.reset()
        return model.decode(np.zeros(ROWS, np.int64), Request())

    calls: dict[str, Call] = {
        "decode after load": lambda model: model.decode(np.zeros(ROWS, np.int64), Request()),
        "decode after reset": after_reset,
    }
    _judge(subject, verdict, calls)


@clause("INPUT-06", "Lengths that do not fit the batch, and rows that do not fit the cache, are refused", dtypes=LOGIC)
def test_lengths_that_do_not_fit_are_refused(subject: Subject, verdict: Verdict) -> None:
    calls: dict[str, Call] = {
        "a length beyond the row": lambda model: model.prefill(ids(), full(LENGTH + 1), Request()),
        "a negative length": lambda model: model.prefill(ids(), np.array([LENGTH, -1]), Request()),
        "one length for two rows": lambda model: model.prefill(ids(), np.array([LENGTH]), Request()),
        "fractional lengths": lambda model: model.prefill(ids(), np.full(ROWS, LENGTH - 0.5), Request()),
    }
    if "chunked_prefill" in subject.capabilities.features:
        calls["three rows into a cache of two"] = lambda model: _after_prefill(
            model, lambda: model.prefill(np.zeros((3, 4), np.int64), np.full(3, 4), Request())
        )
    _judge(subject, verdict, calls)


def ids(token: int = 0, at: int = 0) -> np.ndarray:
    """A legal batch but for `token`, at one position of the second row."""
    ids_BS = np.arange(ROWS * LENGTH, dtype=np.int64).reshape(ROWS, LENGTH) + 1
    ids_BS[1, at] = token
    return ids_BS


def full(second: int = LENGTH) -> np.ndarray:
    return np.array([LENGTH, second])


def _after_prefill(model: Model, call: Callable[[], object]) -> object:
    model.prefill(ids(), full(), Request(logits="none"))
    return call()


def _judge(subject: Subject, verdict: Verdict, calls: dict[str, Call]) -> None:
    """Every call is refused, and a prompt gives the same bits before and after."""
    subject.needs("prefill", "reset")
    prompts_BS = subject.case.prompts_BS[:ROWS]
    before = prefill(subject.model(), prompts_BS, request(subject))
    for what, call in calls.items():
        model = subject.model()
        refuses(verdict, what, lambda call=call, model=model: call(model))  # type: ignore[misc]
        after = prefill(subject.model(), prompts_BS, request(subject))
        verdict.judge(*changes(before, after), about=f"after {what}")
    verdict.require(refused=len(calls))
