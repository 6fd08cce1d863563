"""Every wrong implementation of the catalogue dies by each check meant for it, and no honest one fails. End to end: registry,
pytest, plug-in, records."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.checks import clauses
from harness.faults.catalogue import FAULTS, HONEST_VARIANTS, SPECIFICATION, backend
from harness.faults.entry import Fault
from harness.launch import Launch, pytest_command
from harness.record import FAILING, read_run

HONEST_CHECKS = "ROUTE-04 or ROUTE-05 or BLOCK-01 or PARITY-02 or PARITY-03 or CACHE-01 or PAD-01"
Statuses = dict[tuple[str, str], list[str]]
Batch = tuple[str, str]  # topic of the checks (ROUTE, BLOCK, ...) and dtype


def judge(names: list[str], keyword: str, dtypes: list[str], directory: Path) -> Statuses:
    """(entry, check) -> statuses over families and dtypes."""
    *command, folder = pytest_command("checks", _launch(names, keyword, dtypes), directory)
    done = subprocess.run([*command, *files_of(Path(folder), keyword)], capture_output=True, text=True, check=False)
    assert directory.is_dir() and list(directory.iterdir()), done.stdout + done.stderr
    found: Statuses = defaultdict(list)
    for record in read_run(directory):
        if record["type"] == "check":
            found[record["backend"].removeprefix(f"{SPECIFICATION}:"), record["check"]].append(record["status"])
    return found


def _launch(names: list[str], keyword: str, dtypes: list[str]) -> Launch:
    return Launch([f"{SPECIFICATION}:{name}" for name in names], None, dtypes, "cpu", None, None, keyword, False, workers=0)


def files_of(folder: Path, keyword: str) -> list[str]:
    """Where the checks named in the keyword stand: to collect all checks for all faults takes longer than to run those asked for."""
    asked = set(re.findall(r"[A-Z]+-\d\d", keyword))
    return [
        str(file)
        for file in sorted(folder.glob("test_*.py"))
        if asked & set(re.findall(r'@clause\("([A-Z]+-\d\d)"', file.read_text("utf-8")))
    ]


def batches() -> dict[Batch, list[tuple[Fault, list[str]]]]:
    """Each fault with its own checks, in the first dtype where it shows: small batches, which workers share out among themselves."""
    found: dict[Batch, list[tuple[Fault, list[str]]]] = defaultdict(list)
    for fault in FAULTS:
        for topic in sorted({check.split("-")[0] for check in fault.dies_by}):
            found[topic, fault.dtypes[0]].append((fault, [check for check in fault.dies_by if check.startswith(topic)]))
    return found


def keywords(aimed: list[tuple[Fault, list[str]]]) -> Iterator[str]:
    """Selects each fault on the first family where it shows."""
    for fault, checks in aimed:
        yield f"(:{fault.id}-{fault.families[0]}- and ({' or '.join(checks)}))"


@pytest.mark.parametrize("batch", batches(), ids="-".join)
def test_each_fault_dies_by_each_check_meant_for_it(batch: Batch, tmp_path: Path) -> None:
    aimed = batches()[batch]
    killed = judge([fault.id for fault, _ in aimed], " or ".join(keywords(aimed)), [batch[1]], tmp_path)
    found = {(fault.id, check): killed.get((fault.id, check), []) for fault, checks in aimed for check in checks}
    survived = {key: statuses for key, statuses in found.items() if not set(statuses) & set(FAILING)}
    assert not survived, f"(fault, check) -> statuses: {survived}"


def test_every_check_kills_something_and_nothing_else_is_claimed() -> None:
    assert clauses() == sorted({check for fault in FAULTS for check in fault.dies_by})


def honest_keywords() -> Iterator[str]:
    for turn, variant in enumerate(HONEST_VARIANTS):
        family = variant.families[turn % len(variant.families)]
        yield f"(:{variant.id}-{family}- and ({' or '.join((HONEST_CHECKS, *variant.also))}))"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_honest_variants_pass(dtype: str, tmp_path: Path) -> None:
    """Each on one family, in turn: all variants on all families, under all checks, take an hour."""
    keyword = " or ".join(honest_keywords())
    found = judge([variant.id for variant in HONEST_VARIANTS], keyword, [dtype], tmp_path)
    assert not {key: statuses for key, statuses in found.items() if not set(statuses) <= {"PASS", "UNSUPPORTED"}}
    assert {name for name, _ in found} == {variant.id for variant in HONEST_VARIANTS}


def test_unknown_entry_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known: .*rank-off-by-one"):
        backend("no-such-fault")


def test_the_spec_has_one_row_per_check_and_names_a_fault_that_dies_by_it() -> None:
    spec = (Path(__file__).parents[2] / "docs" / "spec.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([A-Z]+-\d\d) \|.*\| `([^`]+)` \|$", spec, re.MULTILINE))
    assert sorted(rows) == clauses()
    assert set(rows.items()) <= {(check, fault.id) for fault in FAULTS for check in fault.dies_by}
