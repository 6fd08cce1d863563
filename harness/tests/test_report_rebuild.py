"""The same records give the same report, byte for byte: in another process, time zone and folder, however the runs are listed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from moe_harness.records.frame import load_frame
from moe_harness.report.build import build
from moe_harness.tests.report_samples import check, green, red, write_run

REPO = Path(__file__).resolve().parents[2]
FILES = ("index.html", "report.md", "results.csv", "junit.xml")
UTC = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C"}
TOKYO = {"PYTHONHASHSEED": "12345", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "COLUMNS": "40"}


def rebuilt(out: Path, variables: dict[str, str], cwd: Path, *runs: str) -> dict[str, bytes]:
    path = os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH", ""))))
    settings = os.environ | variables | {"PYTHONPATH": path, "MPLCONFIGDIR": str(out.with_suffix(".mpl"))}
    command = [sys.executable, "-m", "moe_harness", "report", *runs, "--out", str(out)]
    subprocess.run(command, cwd=cwd, env=settings, stdout=subprocess.DEVNULL, check=False)
    return {name: (out / name).read_bytes() for name in FILES}


def runs(root: Path) -> list[Path]:
    """Every status, a capsule, maps, unordered evidence, records of the same microsecond; two machines."""
    failed = check("BLOCK-02", "native", "mixtral", "float32", status="FAIL", reason="x = 2 (bound 1)", capsule="capsules/a.safetensors",
                   maps={"expert_error": {"values": [[1e-7, 3e-6]], "bounds": [[1e-6, 1e-6]]}})  # fmt: skip
    other = write_run(root / "20260305T020000.000000Z-4c5d", [failed], end=1, environment={"hostname": "bench-02"})
    return [green(root), red(root), other]


def test_processes_zones_and_spellings_give_the_same_bytes(tmp_path: Path) -> None:
    found = runs(tmp_path)
    first = rebuilt(tmp_path / "one", UTC, tmp_path, *(run.name for run in found))
    second = rebuilt(tmp_path / "two", TOKYO, tmp_path, *(str(run) for run in reversed(found)))
    assert [name for name in FILES if first[name] != second[name]] == []
    assert all(len(text) > 1000 for text in first.values())


def test_twice_in_one_process(tmp_path: Path) -> None:
    found = runs(tmp_path)
    for name in ("one", "two"):
        build(load_frame(found), tmp_path / name)
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in FILES)


def test_other_records_give_other_bytes(tmp_path: Path) -> None:
    """The comparison is not of constants."""
    build(load_frame([green(tmp_path)]), tmp_path / "one")
    build(load_frame([red(tmp_path)]), tmp_path / "two")
    assert all((tmp_path / "one" / name).read_bytes() != (tmp_path / "two" / name).read_bytes() for name in FILES)
