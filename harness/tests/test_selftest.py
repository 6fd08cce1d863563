"""The self-test's own arithmetic, and a small one as a whole. That faults die in it is test_faults_die.py's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from moe_harness.cases.cases import HELDOUT, golden_root, named_cases
from moe_harness.checks.in_process import checks_of, suite
from moe_harness.emulator.honest import HONEST
from moe_harness.emulator.numerics import Rounding
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.mutants.catalogue import FAULTS, entries
from moe_harness.records import selftest_figures
from moe_harness.selftest import alarms, effects, kills, table
from moe_harness.selftest.alarms import outcome, runs, upper_bound
from moe_harness.selftest.dials import DIALS
from moe_harness.selftest.effects import Search, search
from moe_harness.selftest.kills import Fate, controls, fates
from moe_harness.selftest.measure import Plan, measure
from moe_harness.selftest.pool import pool
from moe_harness.selftest.trial import Ending, Ledger, Trial, hold
from moe_harness.suite.status import classify

FAULT = FAULTS[0]
PASS, FAIL, CRASH = (Ending("ROUTE-01", "ROUTE-01", status) for status in ("PASS", "FAIL", "CRASHED"))


def verdict(*metrics: Metric, **floors: float) -> Verdict:
    made = Verdict()
    made.judge(*metrics)
    made.saw(**floors)
    made.require(**floors)
    return made


def test_a_pass_needs_a_judgement_and_a_least_amount_of_evidence() -> None:
    judged, reported = Metric("error", 0.0, 1.0), Metric("error", 0.0)
    assert classify(None, verdict(judged, tokens=64)) == ("PASS", "")
    assert classify(None, None)[0] == classify(None, verdict(reported, tokens=64))[0] == "INCONCLUSIVE"
    for found in (verdict(judged), verdict(judged, tokens=0)):
        assert classify(None, found) == ("INCONCLUSIVE", classify(None, found)[1]) and "evidence" in classify(None, found)[1]


def test_a_bare_skip_is_no_type_of_skip() -> None:
    error = pytest.skip.Exception("not today")
    status, reason = classify(error, verdict())
    assert status == "CRASHED" and "untyped skip" in reason and "not today" in reason
    assert classify(error, None, benchmark=True) == ("UNSUPPORTED", "not today")


def test_a_group_of_errors_is_its_first() -> None:
    assert classify(ExceptionGroup("two", [AssertionError("first"), ValueError("second")]), None) == ("FAIL", "first")


def test_the_suite_is_what_pytest_collects() -> None:
    names = [check.name for check in suite()]
    assert len(set(names)) == len(names) and {"ROUTE-04", "PAD-01[left]", "BLOCK-04[4096]"} <= set(names)
    with pytest.raises(ValueError, match="ROUTE-99"):
        checks_of(["ROUTE-99"])


def test_seeds_ask_about_other_text_that_no_bound_was_calibrated_on() -> None:
    case, text = named_cases()["mixtral"], (golden_root() / HELDOUT).read_bytes()
    first, second = (case.seeded(seed).prompts_BS for seed in (1, 2))
    assert first.shape == second.shape == case.prompts_BS.shape and (first != second).any()
    assert (first == case.seeded(1).prompts_BS).all()
    assert all(bytes(row.tolist()) in text[len(text) // 2 :] for row in first)
    assert case.seeded(1).oracle is case.oracle and case.seeded(0) is case


def test_honest_runs_are_fresh_and_cover_every_kind() -> None:
    planned = runs(len(alarms.kinds()), costly=False)
    assert {trial.subject.split("#")[0] for trial in planned} == {variant.id for variant in alarms.kinds()} and len(alarms.kinds()) >= 30
    assert len({trial.seed for trial in planned}) == len(planned) and 0 not in {trial.seed for trial in planned}
    assert runs(9, costly=False) == planned[:9] and all(trial.checks for trial in planned)
    costly = {name for trial in runs(9, costly=True) for name in trial.checks} - {name for trial in planned for name in trial.checks}
    assert {name if name in alarms.COSTLY else name.partition("[")[0] for name in costly} == set(alarms.COSTLY)
    assert {trial.seed for trial in planned}.isdisjoint(range(effects.FIRST, effects.FIRST + effects.SEEDS))


def test_a_run_alarms_if_one_check_does() -> None:
    trial = Trial("split-k#7", "mixtral", "float32", ("ROUTE-01",), 7)
    assert outcome(trial, [PASS, Ending("A-01", "A-01[x]", "FAIL", "off\nby one")]).alarms == ("A-01[x]: off",)
    quiet = outcome(trial, [PASS, Ending("A-01", "A-01", "INCONCLUSIVE", "?")])
    assert (quiet.kind, quiet.alarms, quiet.undecided, quiet.judged) == ("split-k", (), ("A-01",), 1)


def test_the_bound_of_a_rate_is_clopper_and_pearsons() -> None:
    assert upper_bound(0, 300) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert upper_bound(3, 3) == 1.0
    assert upper_bound(5, 100) == pytest.approx(0.1023, abs=1e-4)  # the table in Clopper and Pearson's form: beta(0.95; 6, 95)


def test_what_the_honest_subject_fails_kills_nothing() -> None:
    trial = Trial(FAULT.id, "mixtral", "float32", ("ROUTE-01",))
    (control,) = controls([trial])
    assert (control.subject, control.case, control.checks) == ("", "mixtral", ("ROUTE-01",))

    def fate(of_fault: Ending, of_honest: Ending) -> Fate:
        return fates([control, trial], [[of_honest], [of_fault]])[0]

    assert fate(FAIL, PASS).killers() == {"ROUTE-01": "FAIL"} and not fate(FAIL, PASS).by_crash_alone
    assert fate(CRASH, PASS).by_crash_alone
    assert not fate(PASS, PASS).killers() and "PASS" in fate(PASS, PASS).excuse
    assert not fate(FAIL, FAIL).killers()


def test_a_ledger_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    trials, asked = [Trial(str(n), "mixtral", "float32", ("ROUTE-01",)) for n in range(3)], list[Trial]()

    def mapper(work: object, tasks: Sequence[Trial]) -> Iterator[tuple[Ending, ...]]:
        asked.extend(tasks)
        return iter([(PASS,) for _ in tasks])

    file = tmp_path / "deep" / "ledger.jsonl"
    assert list(Ledger(file, "v1").held(mapper, trials[:2])) == [(PASS,), (PASS,)]
    with file.open("a") as cut:
        cut.write('{"version": "v1", "tri')
    asked.clear()
    assert list(Ledger(file, "v1").held(mapper, trials)) == [(PASS,)] * 3 and asked == trials[2:]
    asked.clear()
    assert list(Ledger(file, "v2").held(mapper, trials)) == [(PASS,)] * 3 and asked == trials


@pytest.mark.parametrize("threshold", [0.013, 3e-6])
def test_the_search_finds_the_smallest_size_that_dies(threshold: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def dies(directory: Path, trial: Trial) -> tuple[Ending, ...]:
        lucky = trial.seed == effects.FIRST  # one survivor in twenty is allowed
        return (FAIL if float(trial.subject.split("=")[1]) >= threshold and not lucky else PASS,)

    monkeypatch.setattr(effects, "hold", dies)
    found = search(tmp_path, Search("expert-scale", "float32", "mixtral"))
    assert found.size is not None and threshold <= found.size < threshold * 2**0.25 and found.says.endswith(" %")


def test_what_is_never_seen_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(effects, "hold", lambda directory, trial: (PASS,))
    assert search(tmp_path, Search("selection-bias", "float32", "mixtral")).size is None


@pytest.mark.parametrize("dial", DIALS)
def test_a_dial_turned_far_is_seen_and_one_not_turned_is_not(dial: str, tmp_path: Path) -> None:
    names = tuple(check.name for check in checks_of(["BLOCK-01", "ROUTE-04"]))
    for size, dies in ((2.0**-24, False), (2.0 ** DIALS[dial].high, True)):
        ended = hold(tmp_path, Trial(f"{dial}={size!r}", "mixtral", "float32", names, seed=3))
        assert any(ending.failed for ending in ended) == dies, ended


def test_router_precision_counts_significant_bits() -> None:
    seams = DIALS["router-precision"].seams(HONEST, 2.0**-8)
    x_TD = np.array([[1 + 2.0**-9]], np.float32)
    assert seams.router.router_logits(x_TD, np.ones((1, 1), np.float32), Rounding("float32"), seams) == 1.0


def test_processes_find_what_this_one_finds() -> None:
    trials = [Trial(name, "mixtral", "float32", ("ROUTE-04",)) for name in ("", "rank-off-by-one")]
    with pool(1) as here, pool(2) as there:
        assert list(here(hold, trials)) == list(there(hold, trials))


def test_a_small_self_test_as_a_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One fault, two honest runs, no search."""
    some = (entries()["rank-off-by-one"],)
    monkeypatch.setattr(kills, "FAULTS", some)
    monkeypatch.setattr(alarms, "ROUNDING", ("ROUTE-04", "BLOCK-01"))
    found = measure(Plan("quick", everything=False, honest_runs=2, families=()), workers=1, ledger=tmp_path / "ledger")
    assert (found["faults"]["killed"], found["faults"]["expressed"], found["faults"]["escapes"]) == (1, 1, [])
    assert found["faults"]["by_topic"] == {"router": {"killed": 1, "expressed": 1}}
    assert (found["honest"]["runs"], found["honest"]["alarms"], found["honest"]["verdicts"]) == (2, 0, 4)
    table.show(found, Console(file=(shown := StringIO()), width=200))
    assert "1 of 1 wrong implementations die" in shown.getvalue() and "0 of 2 runs" in shown.getvalue()
    assert json.loads(selftest_figures.write(tmp_path, found).read_text("utf-8")) == found


def test_figures_of_another_version_are_not_current(tmp_path: Path) -> None:
    assert selftest_figures.summary(tmp_path) == {"current": False, "figures": None}
    honest = {"runs": 300, "alarms": 0, "rate_below": 0.01, "confidence": 0.95}
    found = {
        "schema": 1,
        "version": selftest_figures.version(tmp_path),
        "date": "2026-11-28",
        "mode": "quick",
        "effects": [],
        "honest": honest,
    }
    found |= {"faults": {"killed": 9, "expressed": 10, "survivors": [{"fault": "x", "reason": "PASS"}]}, "corpus": {"total": 44}}
    selftest_figures.write(tmp_path, found)
    assert selftest_figures.summary(tmp_path)["current"] and selftest_figures.summary(tmp_path)["figures"]["faults"]["survivors"] == ["x"]
    selftest_figures.write(tmp_path, found | {"version": "of yesterday"})
    assert not selftest_figures.summary(tmp_path)["current"] and selftest_figures.summary(tmp_path)["figures"]["honest"] == honest
    selftest_figures.write(tmp_path, found | {"schema": 2})
    assert selftest_figures.summary(tmp_path)["figures"] is None
