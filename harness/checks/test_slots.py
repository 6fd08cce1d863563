"""SLOT: requests that come and go while others are continued. Legend: B batch, S sequence, R requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from moe_harness.implementations.interface import Request, Slots
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.drivers import Trace, decode_slots, join, prefill_slots, request
from moe_harness.suite.judgements import judge_traces, refuses
from moe_harness.suite.situations import excerpts, with_nan_embedding
from moe_harness.suite.subject import MAX_BATCH, Subject

PROMPTS_R = (12, 7, 1, 4, 5)  # tokens; the fourth takes the place of the second, which was longer and ends in a NaN
REPLACED = 1
LENGTH = 20


@dataclass
class Floor:
    """Requests in their slots. `texts_RS`: prompt and continuation of each; `at`: slot -> request; `traces`: by request, call by call."""

    subject: Subject
    model: Slots
    texts_RS: np.ndarray
    at: dict[int, int] = field(default_factory=dict)
    traces: dict[int, list[Trace]] = field(default_factory=dict)

    def begin(self, *pairs: tuple[int, int]) -> None:
        """(slot, request) each, in one call."""
        lengths_B = np.array([PROMPTS_R[r] for _, r in pairs])
        ids_BS = np.full((len(pairs), lengths_B.max()), self.subject.config.pad_token_id or 0, np.int64)
        for row, (slot, r) in enumerate(pairs):
            ids_BS[row, : lengths_B[row]] = self.texts_RS[r, : lengths_B[row]]
            self.at[slot], self.traces[r] = r, []
        self._add([slot for slot, _ in pairs], prefill_slots(self.model, ids_BS, lengths_B, _slots(pairs), request(self.subject)))

    def decode(self, *slots: int) -> None:
        requests = [self.at[slot] for slot in slots]
        ids_B = np.array([self.texts_RS[r, sum(len(t.input_ids_S) for t in self.traces[r])] for r in requests])
        self._add(list(slots), decode_slots(self.model, ids_B, np.array(slots), request(self.subject)))

    def _add(self, slots: list[int], traces: list[Trace]) -> None:
        for slot, trace in zip(slots, traces, strict=True):
            self.traces[self.at[slot]].append(trace)


@clause("SLOT-01", "Requests that come and go in slots get what each gets alone, whatever a slot held before")
def test_interleaved_requests_equal_isolated_ones(subject: Subject, verdict: Verdict) -> None:
    texts_RS = excerpts(subject, len(PROMPTS_R), LENGTH)
    poison = next(token for token in range(subject.config.vocab_size) if token not in texts_RS)
    texts_RS[REPLACED, PROMPTS_R[REPLACED] + 2] = poison  # the last token of the request whose slot is used again
    poisoned = with_nan_embedding(subject, poison)
    floor = Floor(subject, _model(poisoned), texts_RS)
    floor.begin((5, 0), (2, 1))
    floor.decode(5, 2)
    floor.decode(2)
    floor.begin((0, 2))
    floor.decode(0, 5, 2)
    floor.begin((2, 3))
    floor.decode(2, 0)
    floor.begin((7, 4))
    for _ in range(3):
        floor.decode(7, 2, 5, 0)
    rows = [join(floor.traces[r][: -1 if r == REPLACED else None]) for r in range(len(PROMPTS_R))]
    about = f"in slots, prompts of {PROMPTS_R}"
    judge_traces(subject, verdict, rows, poisoned.case.oracle, about, repeatable=False)
    verdict.require(tokens=40)


@clause("SLOT-02", "A slot that is empty, outside the cache or given twice is refused, and nothing changes", dtypes=LOGIC)
def test_bad_slots_are_refused(subject: Subject, verdict: Verdict) -> None:
    model, plain = _model(subject), Request()
    ids_BS, lengths_B, one_B = excerpts(subject, 2, 6), np.array([6, 6]), np.array([1])
    steady = _steps(model, ids_BS, lengths_B)
    model.reset()  # type: ignore[attr-defined]
    model.prefill_slots(ids_BS, lengths_B, np.array([3, 1]), plain)
    for what, slots in (("a slot twice", [1, 1]), ("a slot below 0", [1, -1]), ("a slot too many", [1, MAX_BATCH])):
        bad_B = np.array(slots)
        refuses(verdict, f"prefill into {what}", partial(model.prefill_slots, ids_BS, lengths_B, bad_B, plain))
        refuses(verdict, f"decode of {what}", partial(model.decode_slots, ids_BS[:, 0].copy(), bad_B, plain))
    refuses(verdict, "decode of an empty slot", lambda: model.decode_slots(one_B, np.array([4]), plain))
    refuses(verdict, "prefill beside slots", lambda: model.prefill(ids_BS, lengths_B, plain))  # type: ignore[attr-defined]
    refuses(verdict, "decode beside slots", lambda: model.decode(ids_BS[:, 0].copy(), plain))  # type: ignore[attr-defined]
    after = model.decode_slots(ids_BS[:, 0].copy(), np.array([3, 1]), plain).logits_BSV
    verdict.judge(Metric("changed_logits", int(np.sum(after != steady)), 0))
    verdict.require(refused=9)


def _steps(model: Slots, ids_BS: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
    """Logits of the step that SLOT-02 ends with, nothing bad in between."""
    model.prefill_slots(ids_BS, lengths_B, np.array([3, 1]), Request())
    logits = model.decode_slots(ids_BS[:, 0].copy(), np.array([3, 1]), Request()).logits_BSV
    assert logits is not None
    return logits


def _model(subject: Subject) -> Slots:
    subject.needs("prefill", "decode", "slots")
    model = subject.model()
    assert isinstance(model, Slots), f"{subject.backend.name} declares `slots` but its model has no prefill_slots and decode_slots"
    return model


def _slots(pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    return np.array([slot for slot, _ in pairs])
