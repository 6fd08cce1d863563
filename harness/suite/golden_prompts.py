"""Runs of the golden prompts that ask for nothing but logits. Legend: B prompts, X sides, S sequence, V vocabulary, N likeliest tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moe_harness.cases.prompts import Prompts
from moe_harness.implementations.interface import Request, TopLogProbs, Unsupported
from moe_harness.judge.verdict import Inconclusive
from moe_harness.oracle.model import OracleOutput
from moe_harness.suite.drivers import decode
from moe_harness.suite.subject import MAX_BATCH, Subject


def stored(subject: Subject, kind: str) -> Prompts:
    """Those of the subject's case and dtype. Raises Inconclusive where none were made."""
    found = subject.case.prompts.get((kind, subject.dtype))
    if found is None:
        raise Inconclusive(f"{subject.case.name} has no golden prompts in {subject.dtype}; `moe-harness golden prompts` makes them")
    return found


def batches(prompts: Prompts) -> Iterator[slice]:
    """Rows of as many prompts as a model takes at once."""
    yield from (slice(start, start + MAX_BATCH) for start in range(0, len(prompts), MAX_BATCH))


def sides(subject: Subject, prompts: Prompts, row: int) -> list[OracleOutput]:
    """The oracle's runs of one prompt: one, or one on each side of a near-tie."""
    return [subject.case.oracle.forward(prompts.input_ids_BS[row], ids_LSK) for ids_LSK in prompts.ids_BXLSK[row]]


def whole(subject: Subject, input_ids_BS: np.ndarray) -> np.ndarray:
    """logits_BSV of one prefill; of the last position alone (S = 1) where no others are shown."""
    out = subject.model().prefill(input_ids_BS, _full(input_ids_BS), Request(logits="all" if _shows(subject, "all") else "last"))
    assert out.logits_BSV is not None, "logits were asked for, none came"
    return out.logits_BSV


def stepwise(subject: Subject, input_ids_BS: np.ndarray, prompt: int) -> np.ndarray:
    """logits_BSV at the end of the first `prompt` tokens and of every token after them, each decoded."""
    asked = Request(logits="last" if _shows(subject, "last") else "all")
    model, head_BS = subject.model(), np.ascontiguousarray(input_ids_BS[:, :prompt])
    out = model.prefill(head_BS, _full(head_BS), asked)
    assert out.logits_BSV is not None, "logits were asked for, none came"
    steps = [decode(model, input_ids_BS[:, position], asked) for position in range(prompt, input_ids_BS.shape[1])]
    rows = [np.stack([trace.logits_SV[-1] for trace in step]) for step in steps]
    return np.stack([out.logits_BSV[:, -1], *rows], axis=1)


def likeliest(subject: Subject, input_ids_BS: np.ndarray, n: int) -> TopLogProbs:
    """What the backend tells of its n likeliest tokens."""
    top = subject.model().prefill(input_ids_BS, _full(input_ids_BS), Request(logits=f"top-{n}")).top
    assert top is not None, f"top-{n} was asked for, none came"
    shape = (*top.ids_BSN.shape[:2], n)
    assert top.ids_BSN.shape == top.log_probs_BSN.shape == shape, f"expected {shape}, got {top.ids_BSN.shape}, {top.log_probs_BSN.shape}"
    assert shape[:2] in (input_ids_BS.shape, (len(input_ids_BS), 1)), f"{shape[1]} positions for prompts of {input_ids_BS.shape[1]}"
    return top


def needs_some_logits(subject: Subject) -> None:
    """Raises Unsupported where neither all nor the last logits are shown."""
    if not (_shows(subject, "all") or _shows(subject, "last")):
        raise Unsupported(f"{subject.backend.name} shows no logits")


def _shows(subject: Subject, which: str) -> bool:
    return which in subject.capabilities.logits


def _full(input_ids_BS: np.ndarray) -> np.ndarray:
    return np.full(len(input_ids_BS), input_ids_BS.shape[1])
