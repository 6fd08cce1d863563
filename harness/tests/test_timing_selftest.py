"""The figures of `bench --self-test`: what counts as a false flag and as seen, their intervals, the bar, and that the extra work is
real."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from moe_harness.bench import timing_selftest
from moe_harness.bench.blocks import Plan, Series
from moe_harness.bench.clock import Arm
from moe_harness.bench.compare import Answer
from moe_harness.bench.timing_selftest import PEERS, Trial, figures, reaches_the_bar
from moe_harness.cli.app import application
from moe_harness.cli.bench import pair_line
from moe_harness.stats.paired import Estimate, PairConfig


def trial(verdict: str, series: int = 1, peers: frozenset[str] = frozenset()) -> Trial:
    arms = Arm("a", lambda: None), Arm("b", lambda: None)
    taken = tuple(Series(arms, Plan(20, 1), 0, songs=[1.0] * 21) for _ in range(series))
    return Trial(Answer(Estimate(1.05, 1.04, 1.06, 0.03, verdict), taken, PairConfig()), peers)


def test_figures_count_what_they_say() -> None:
    (peer, other) = PEERS
    equal = [trial("equivalent"), trial("inconclusive", 2, frozenset({peer})), trial("faster", 2), trial("slower", 2)]
    slower = [trial("slower", 2), trial("slower", 2), trial("faster", 2), trial("inconclusive")]
    found = figures(equal, slower)
    counts = {name: (found[name]["count"], found[name]["of"]) for name in ("false_flags", "first_series_flags", "seen", "equivalent")}
    assert counts == {"false_flags": (2, 4), "first_series_flags": (3, 4), "seen": (2, 4), "equivalent": (1, 4)}
    assert found["peers"][peer]["false_flags"]["count"] == 1 and found["peers"][other]["false_flags"]["count"] == 0
    json.dumps(found)


def test_intervals_are_clopper_and_pearsons() -> None:
    """No event in n trials: the upper limit is 1 - 0.025^(1/n)."""
    found = figures([trial("equivalent")] * 300, [trial("slower", 2)] * 30)
    assert found["false_flags"]["high"] == pytest.approx(1 - 0.025 ** (1 / 300)) and found["seen"]["low"] == pytest.approx(
        0.025 ** (1 / 30)
    )


@pytest.mark.parametrize("flags, seen, reached", [(1, 90, True), (2, 100, False), (0, 89, False)])
def test_the_bar(flags: int, seen: int, reached: bool) -> None:
    equal = [trial("slower", 2)] * flags + [trial("equivalent")] * (100 - flags)
    assert reaches_the_bar(figures(equal, [trial("slower", 2)] * seen + [trial("inconclusive")] * (100 - seen))) is reached


def test_the_peers_flag_what_differs_and_only_that() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 0.01, 60), rng.normal(1, 0.01, 60)
    assert [differs(a, b) for differs in PEERS.values()] == [False, False]
    assert [differs(a, 1.1 * b) for differs in PEERS.values()] == [True, True]


def test_the_slower_arm_does_a_twentieth_more_of_the_same_calls() -> None:
    calls: list[int] = []
    arms = [timing_selftest.arm(calls.append, more) for more in (0, timing_selftest.MORE)]
    for arm in arms:
        arm.time()
    assert calls[1] / calls[0] == pytest.approx(1.05)


def test_a_trial_is_measured_on_real_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_harness.bench.blocks.QUADS", 1)
    monkeypatch.setattr(timing_selftest, "SEQUENTIAL", 3)
    step = timing_selftest.moe_blocks()
    found = timing_selftest.trial(timing_selftest.ready(step, 0), 0)
    assert found.answer.final.verdict in ("equivalent", "inconclusive", "faster", "slower")
    assert min(sample for arm in found.answer.series[0].samples for block in arm for sample in block) > 0


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--pair", "a", "b", "--backend", "c"], "--pair names both backends"),
        (["--budget", "3"], "go with --pair"),
    ],
)
def test_bad_input_of_the_command_is_one_sentence(words: list[str], sentence: str) -> None:
    result = CliRunner().invoke(application(), ["bench", *words])
    assert result.exit_code == 2 and sentence in result.output and len(result.output.strip().splitlines()) == 1


def test_a_line_says_all_of_a_pair() -> None:
    about: dict[str, Any] = {"a": "hf", "b": "native", "workload": "ttft", "case": "c", "dtype": "bfloat16", "status": "PASS", "reason": ""}
    numbers = {"ratio": 0.9, "low": 0.88, "high": 0.92, "mde": 0.03, "verdict": "faster", "disturbed": [2], "blocks": [20, 20], "note": ""}
    line = pair_line(about | numbers)
    assert re.fullmatch(
        r"native against hf, ttft c bfloat16: faster, time -10\.00 % \[-12\.00 %, -8\.00 %\], would see 3\.0 %, 1 of 40 blocks disturbed",
        line,
    )
    assert pair_line(about | {"status": "VOID", "reason": "why"}).endswith("VOID why")
    assert pair_line(about | numbers | {"ratio": None, "verdict": "inconclusive", "note": "7 blocks"}).endswith("inconclusive, 7 blocks")
