"""Every wrong implementation of the catalogue dies by each check meant for it, and no honest one fails. End to end: registry,
pytest, plug-in, records."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from harness.checks import clauses
from harness.faults.catalogue import FAULTS, HONEST_VARIANTS, SPECIFICATION, backend
from harness.faults.entry import Fault
from harness.launch import Launch, pytest_command
from harness.record import FAILING, read_run

Statuses = dict[tuple[str, str], list[str]]


def judge(names: list[str], keyword: str, dtypes: list[str], directory: Path) -> Statuses:
    """(entry, check) -> statuses over families and dtypes."""
    launch = Launch([f"{SPECIFICATION}:{name}" for name in names], None, dtypes, "cpu", None, None, keyword, False)
    done = subprocess.run([*pytest_command("checks", launch, directory), "-n", "2"], capture_output=True, text=True, check=False)
    assert directory.is_dir() and list(directory.iterdir()), done.stdout + done.stderr
    found: Statuses = defaultdict(list)
    for record in read_run(directory):
        if record["type"] == "check":
            found[record["backend"].removeprefix(f"{SPECIFICATION}:"), record["check"]].append(record["status"])
    return found


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Statuses:
    """Each fault against its own checks, in the first dtype where it shows."""
    found: Statuses = {}
    for dtype in sorted({fault.dtypes[0] for fault in FAULTS}):
        faults = [fault for fault in FAULTS if fault.dtypes[0] == dtype]
        keyword = " or ".join(f"({fault.id}- and ({' or '.join(fault.dies_by)}))" for fault in faults)
        found |= judge([fault.id for fault in faults], keyword, [dtype], tmp_path_factory.mktemp(f"killed-{dtype}"))
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_fault_dies_by_each_check_meant_for_it(fault: Fault, killed: Statuses) -> None:
    survived = {
        check: killed.get((fault.id, check)) for check in fault.dies_by if not set(killed.get((fault.id, check), ())) & set(FAILING)
    }
    assert not survived, f"{fault.what} survived {survived}"


def test_every_check_kills_something_and_nothing_else_is_claimed() -> None:
    assert clauses() == sorted({check for fault in FAULTS for check in fault.dies_by})


def test_honest_variants_pass(tmp_path: Path) -> None:
    names = [variant.id for variant in HONEST_VARIANTS]
    found = judge(names, "ROUTE-04 or ROUTE-05 or BLOCK-01 or PARITY or CACHE-01", ["float32", "bfloat16"], tmp_path)
    assert not {key: statuses for key, statuses in found.items() if set(statuses) != {"PASS"}}
    assert {name for name, _ in found} == set(names)


def test_unknown_entry_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known: .*rank-off-by-one"):
        backend("no-such-fault")


def test_the_spec_has_one_row_per_check_and_names_a_fault_that_dies_by_it() -> None:
    spec = (Path(__file__).parents[2] / "docs" / "spec.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([A-Z]+-\d\d) \|.*\| `([^`]+)` \|$", spec, re.MULTILINE))
    assert sorted(rows) == clauses()
    assert set(rows.items()) <= {(check, fault.id) for fault in FAULTS for check in fault.dies_by}
