"""What a backend says about its graphs reaches the records and the report; that operators ran on the host stands at its top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records.frame import load_frame
from moe_harness.records.record import read_run
from moe_harness.report.compilation import graphs, host_notes
from moe_harness.report.markdown import markdown
from moe_harness.report.page import page
from moe_harness.tests.report_samples import check, write_run

COMPILES = """from moe_harness.emulator.subject import SubjectBackend
from moe_harness.implementations.interface import Compilation

told = iter([Compilation(3, 0.5, 2, 1.5, 1, {"aten::sort": 4})])


class Compiles(SubjectBackend):
    def compilation(self):
        return next(told, Compilation())


class Raises(SubjectBackend):
    def compilation(self):
        raise OSError("no counters here")


def backend(variant=None):
    return Compiles("compiles:backend")


def raises(variant=None):
    return Raises("compiles:raises")
"""


def judged(directory: Path, name: str, *words: str) -> list[dict[str, Any]]:
    ask = ["run", f"--run-dir={directory}", "--workers=0", "--dtype=float32", "-k", "mixtral and (ROUTE-01 or ROUTE-04)", "--backend", name]
    assert CliRunner().invoke(application(), [*ask, *words]).exit_code == 0
    return [record for record in read_run(directory) if record["type"] == "check"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compiles.py").write_text(COMPILES)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [(), ("--python=compiles:backend=",)])
def test_the_record_behind_it_has_it(here: Path, words: tuple[str, ...]):
    """And no later one, in this process and through a worker."""
    first, *others = judged(here / "run", "compiles:backend", *words)
    wanted = {"exported": 3, "export_s": 0.5, "compiled": 2, "compile_s": 1.5, "cached": 1, "host_operators": {"aten::sort": 4}}
    assert first["compilation"] == wanted and others and not any("compilation" in record for record in others)


def test_a_backend_that_cannot_tell_has_its_records(here: Path):
    records = judged(here / "run", "compiles:raises")
    assert records and all(record["status"] == "PASS" and "compilation" not in record for record in records)
    assert {record["execution_note"].rpartition("; ")[2] for record in records} == {"compilation() raised OSError: no counters here"}


def compilation(**fields: Any) -> dict[str, Any]:
    none = {"exported": 0, "export_s": 0.0, "compiled": 0, "compile_s": 0.0, "cached": 0, "host_operators": {}}
    return {"compilation": none | fields}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    place = ("te", "mixtral", "float32")
    records = [
        check("ROUTE-01", *place, **compilation(exported=2, export_s=1.25, compiled=2, compile_s=60.0)),
        check("ROUTE-02", *place, **compilation(exported=1, export_s=0.25, cached=3, host_operators={"aten::sort": 2, "<b>": 7})),
        check("ROUTE-03", *place, **compilation(host_operators={"aten::sort": 9})),
        check("ROUTE-01", "hf", "mixtral", "float32"),
    ]
    return write_run(tmp_path / "run", records)


def test_a_backends_records_are_added_up(run: Path):
    (found,) = graphs(load_frame([run]))
    assert (found.backend, found.exported, found.export_s, found.compiled, found.compile_s, found.cached) == ("te", 3, 1.5, 2, 60, 3)
    assert found.host_operators == (("aten::sort", 11), ("<b>", 7))


def test_operators_on_the_host_are_said_at_the_top(run: Path):
    frame = load_frame([run])
    assert host_notes(frame) == ["te left aten::sort (11 times), <b> (7 times) to the host"]
    html, text = page(frame), markdown(frame)
    assert html.index("aten::sort (11 times)") < html.index('class="compilation"') and "<b> (7" not in html
    assert "aten::sort (11 times)" in text


def test_without_graphs_there_is_no_section(tmp_path: Path):
    frame = load_frame([write_run(tmp_path / "run", [check("ROUTE-01", "hf", "mixtral", "float32")])])
    assert not host_notes(frame) and 'class="compilation"' not in page(frame)
