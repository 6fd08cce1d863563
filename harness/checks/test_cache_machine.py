"""CACHE: any sequence of calls, chosen by Hypothesis, against the oracle. Legend: B batch, S sequence."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from moe_harness.cases.strategies import explore_machine
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.drivers import Trace, after_reset, decode, join, prefill, request
from moe_harness.suite.judgements import judge_traces
from moe_harness.suite.situations import like, two_layers
from moe_harness.suite.subject import Subject

TOKENS, LONGEST = st.integers(0, 255), 40


class CacheMachine(RuleBasedStateMachine):
    """Two rows of one cache. Before every reset and in the end the logits of all positions so far must be the oracle's."""

    subject: Subject
    verdict: Verdict

    @initialize()
    def begin(self) -> None:
        self.model, self.rows, self.earlier = self.subject.model(), list[Trace](), list[Trace]()

    @property
    def length(self) -> int:
        return len(self.rows[0].input_ids_S) if self.rows else 0

    def may_prefill(self) -> bool:
        return self.length == 0 or ("chunked_prefill" in self.subject.capabilities.features and self.length < LONGEST - 10)

    def may_decode(self) -> bool:
        return 0 < self.length < LONGEST

    @precondition(may_prefill)
    @rule(length=st.integers(1, 10), seed=st.integers(0, 999))
    def prefill(self, length: int, seed: int) -> None:
        tokens_BS = np.random.default_rng(seed).integers(0, 256, (2, length))
        self._grown(prefill(self.model, tokens_BS, request(self.subject)))

    @precondition(may_decode)
    @rule(first=TOKENS, second=TOKENS)
    def decode(self, first: int, second: int) -> None:
        self._grown(decode(self.model, np.array([first, second]), request(self.subject)))

    @precondition(may_decode)
    @rule()
    def reset(self) -> None:
        self._judge("before a reset")
        self.model.reset()
        self.rows, self.earlier = [], self.rows
        self.verdict.saw(resets=1)

    def _grown(self, traces: list[Trace]) -> None:
        if self.earlier and not self.rows:
            traces = after_reset(self.earlier, traces)
        self.rows = [join([a, b]) for a, b in zip(self.rows, traces, strict=True)] if self.rows else traces
        self.verdict.saw(calls=1)

    def _judge(self, about: str) -> None:
        judge_traces(self.subject, self.verdict, self.rows, about=about)

    def teardown(self) -> None:
        self._judge("in the end")


@clause("CACHE-06", "Any sequence of prefill, decode and reset gives what the oracle gives", dtypes=LOGIC)
def test_any_sequence_of_calls_equals_oracle(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode", "reset")
    small = like(subject, "cache-machine", two_layers(subject.config.family))
    explore_machine(subject.workshop.thorough, type("Bound", (CacheMachine,), {"subject": small, "verdict": verdict}))
    verdict.require(calls=50, resets=3)
