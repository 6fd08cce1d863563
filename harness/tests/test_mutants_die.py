"""Every wrong implementation of the catalogue dies by each check meant for it, and no honest one fails. In this process, as the self-test
does it; two faults go end to end: registry, pytest, plug-in, records."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from moe_harness.cases.cases import named_cases
from moe_harness.checks import clauses
from moe_harness.checks.in_process import Check, checks_of, suite
from moe_harness.mutants.catalogue import FAULTS, HONEST_VARIANTS, SPECIFICATION, backend
from moe_harness.mutants.entry import Fault, Honest
from moe_harness.records.record import read_run
from moe_harness.records.status import FAILING
from moe_harness.run.launch import pytest_command
from moe_harness.selftest.kills import Fate, aimed
from moe_harness.selftest.trial import Trial, hold
from moe_harness.suite.run_spec import RunSpec

HONEST_CHECKS = ("ROUTE-04", "BLOCK-01", "PARITY-03", "CACHE-01")  # the self-test asks many more
END_TO_END = {"rank-off-by-one": "ROUTE-04", "rope-of-neighbours": "PARITY-02"}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trials")


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.dies_by], ids=lambda fault: fault.id)
def test_each_fault_dies_by_each_check_meant_for_it(fault: Fault, room: Path) -> None:
    """On the first family where it shows; in float32, and every third one in bfloat16 too where it is visible. The self-test asks all."""
    fate, asked, whole = Fate(fault), set[str](), FAULTS.index(fault) % 3 == 0
    for trial in aimed(fault):
        if not asked or whole or fate.escaped:
            fate.add(trial.dtype, hold(room, trial))
            asked.add(trial.dtype)
    assert not fate.escaped, f"survives {fate.escaped}: {fate.excuse}"
    assert asked and all(fate.killers(dtype) for dtype in asked), f"survives in a dtype: {fate.excuse}"


@pytest.mark.parametrize("check", suite(), ids=lambda check: check.name)
def test_the_honest_subject_passes_every_check_on_evidence(check: Check, room: Path) -> None:
    """So no fault dies of a check that fails always; PASS includes that the check asks for a least amount of evidence."""
    dtype = (check.limits["dtypes"] or ("bfloat16",))[0]
    asked = [name for name, case in named_cases().items() if check.asks(case, dtype)]
    case = "mixtral" if "mixtral" in asked else asked[0]  # the first of the names, dots1, has no golden prompts
    (ending,) = hold(room, Trial("", case, dtype, (check.name,)))
    assert (ending.status, ending.reason) == ("PASS", "")


@pytest.mark.parametrize("variant", HONEST_VARIANTS, ids=lambda variant: variant.id)
def test_honest_variants_pass(variant: Honest, room: Path) -> None:
    """Each on one family in one dtype, in turn; the self-test judges all of them in both."""
    turn = HONEST_VARIANTS.index(variant)
    family, dtype = variant.families[turn % len(variant.families)], ("float32", "bfloat16")[turn // len(variant.families) % 2]
    asked = [check.name for check in checks_of((*HONEST_CHECKS, *variant.also)) if check.asks(named_cases()[family], dtype)]
    ended = hold(room, Trial(variant.id, family, dtype, tuple(asked)))
    assert not [ending for ending in ended if ending.status not in ("PASS", "UNSUPPORTED")]


@pytest.mark.parametrize("fault", END_TO_END)
def test_a_fault_dies_end_to_end(fault: str, tmp_path: Path) -> None:
    """As any backend of the registry: by pytest in a process of its own, into records."""
    name = f"{SPECIFICATION}:{fault}"
    asked = RunSpec([name], dtype=["float32"], keyword=f"{END_TO_END[fault]} and mixtral", workers=0)
    done = subprocess.run(pytest_command("checks", asked, tmp_path / "run"), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found = [record for record in read_run(tmp_path / "run") if record["type"] == "check"]
    assert found and all((r["backend"], r["check"]) == (name, END_TO_END[fault]) and r["status"] in FAILING for r in found)


def test_every_check_kills_something_and_nothing_else_is_claimed() -> None:
    assert clauses() == sorted({check for fault in FAULTS for check in fault.dies_by})


def test_unknown_entry_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known: .*rank-off-by-one"):
        backend("no-such-fault")


def test_the_spec_has_one_row_per_check_and_names_a_fault_that_dies_by_it() -> None:
    spec = (Path(__file__).parents[2] / "docs" / "spec.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([A-Z]+-\d\d) \|.*\| `([^`]+)` \|$", spec, re.MULTILINE))
    assert sorted(rows) == clauses()
    assert set(rows.items()) <= {(check, fault.id) for fault in FAULTS for check in fault.dies_by}
