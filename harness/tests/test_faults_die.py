"""Every wrong implementation of the catalogue dies by each check meant for it, and no honest one fails. End to end: registry,
pytest, plug-in, records."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from harness.faults.catalogue import FAULTS, HONEST_VARIANTS, SPECIFICATION
from harness.faults.entry import Fault
from harness.launch import Launch, pytest_command
from harness.record import read_run

Statuses = dict[tuple[str, str], list[str]]


def judge(names: list[str], keyword: str, dtypes: list[str], directory: Path) -> Statuses:
    """(entry, check) -> statuses over families and dtypes."""
    launch = Launch([f"{SPECIFICATION}:{name}" for name in names], None, dtypes, "cpu", None, None, keyword, False)
    done = subprocess.run([*pytest_command("checks", launch, directory), "-n", "2"], capture_output=True, text=True, check=False)
    found: Statuses = defaultdict(list)
    for record in read_run(directory):
        if record["type"] == "check":
            found[record["backend"].removeprefix(f"{SPECIFICATION}:"), record["check"]].append(record["status"])
    assert found, done.stdout + done.stderr
    return found


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Statuses:
    """Each fault against its own checks, in the first dtype where it shows."""
    found: Statuses = {}
    for dtype in ("float32", "bfloat16"):
        faults = [fault for fault in FAULTS if fault.dtypes[0] == dtype]
        keyword = " or ".join(f"({fault.id}- and ({' or '.join(fault.dies_by)}))" for fault in faults)
        found |= judge([fault.id for fault in faults], keyword, [dtype], tmp_path_factory.mktemp(f"killed-{dtype}"))
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_fault_dies_by_each_check_meant_for_it(fault: Fault, killed: Statuses) -> None:
    survived = {check: killed.get((fault.id, check), []) for check in fault.dies_by if "FAIL" not in killed.get((fault.id, check), [])}
    assert not survived, f"{fault.what} survived {survived}"


def test_every_check_kills_something() -> None:
    from harness.checks import clauses

    assert clauses() == sorted({check for fault in FAULTS for check in fault.dies_by})


def test_honest_variants_pass_everything(tmp_path: Path) -> None:
    names = [variant.id for variant in HONEST_VARIANTS]
    found = judge(names, "ROUTE-04 or ROUTE-05 or BLOCK-01 or PARITY or CACHE-01", ["float32", "bfloat16"], tmp_path)
    wrong = {key: statuses for key, statuses in found.items() if set(statuses) - {"PASS", "UNSUPPORTED"}}
    assert not wrong and {name for name, _ in found} == set(names)
