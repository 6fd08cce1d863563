"""One place for a flag: a field that is added to RunSpec is an option everywhere, with nothing else changed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.run.launch import pytest_command
from moe_harness.suite.run_spec import RunSpec, options

ADDED = """
import sys
from dataclasses import dataclass
from moe_harness.suite import run_spec

@dataclass(frozen=True)
class Wider(run_spec.RunSpec):
    colour: str | None = run_spec.flag(
        None, "Paint it.", "NAME", commands=run_spec.RUN, parts=run_spec.CHECKS, selects=True, requested="colours", repeats=True
    )

run_spec.RunSpec = Wider
run_spec.options.__wrapped__.__defaults__ = (Wider,)
"""


def test_a_field_added_is_an_option_of_the_command_line_and_reaches_pytest_and_the_records(tmp_path: Path):
    """The one file that a new flag touches is run_spec.py: here a field is put into it before anything else is imported."""
    (tmp_path / "wider.py").write_text(ADDED)
    (tmp_path / "sitecustomize.py").write_text("import os\nif 'WIDER' in os.environ:\n    import wider\n")
    code = "from moe_harness.cli.app import main; main()"
    environment = {"PYTHONPATH": str(tmp_path), "WIDER": "1", "COLUMNS": "200", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def call(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        return done.stdout + done.stderr

    assert "--colour" in call("run", "--help") and "Paint it." in call("run", "--help") and "--colour" not in call("bench", "--help")
    asked = (
        "run",
        "--backend",
        "moe_harness.mutants.catalogue:backend:rank-off-by-one",
        "--dtype",
        "float32",
        "-k",
        "ROUTE-04 and mixtral",
    )
    call(*asked, "--workers", "0", "--colour", "teal", "--run-dir", "run")
    (records,) = (tmp_path / "run").glob("records-*.jsonl")
    text = records.read_text()
    assert '"colours": "teal"' in text and "--colour teal -k" in text and '"--colour", "teal"' in text


def test_every_field_has_a_flag_and_its_names_are_its_own():
    found = options()
    assert [each.name for each in found] == [field.name for field in fields(RunSpec)] and all(each.flag.help for each in found)
    for command in ("run", "bench"):
        names = [each.command_line for each in found if command in each.flag.commands]
        assert len(set(names)) == len(names)
    pytests = [each.option for each in found if each.option]
    assert len(set(pytests)) == len(pytests) and not {"--verbose", "--timeout", "--bench"} & set(pytests)


@pytest.mark.parametrize(
    "part, handed", [("checks", {"--expect", "--profile", "--device"}), ("bench", {"--wide", "--benchmark", "--device"})]
)
def test_a_part_gets_its_own_options(part: str, handed: set[str]):
    spec = RunSpec(device="cuda", expect=[Path("known.toml")], profile="model-1.0", wide=True, workers=0)
    words = pytest_command(part, spec, Path("run"))
    both = {"--expect", "--profile", "--wide", "--benchmark", "--device"}
    assert {word.partition("=")[0] for word in words} & both == handed


def test_a_failure_is_repeated_with_its_own_interpreter_alone():
    spec = RunSpec(["a", "b"], device="cuda:1", python=["a=/x/python", "b=/y/python"], timeout=3.0, keyword="ROUTE", thorough=True)
    assert list(spec.repeated("run", ["a"])) == ["--device", "cuda:1", "--python=a=/x/python", "--timeout=3"]
    assert list(replace(spec, python=["b=/y/python"]).repeated("run", ["a"])) == ["--device", "cuda:1"]


def test_a_check_is_repeated_without_the_options_of_bench():
    """`moe-harness run` has none of them: the line would be refused."""
    spec = RunSpec(wide=True, routing_trace=Path("loads.json"))
    assert list(spec.repeated("run", ["a"])) == []
    assert list(spec.repeated("bench", ["a"])) == ["--wide", "--routing-trace", "loads.json"]


def test_what_selects_and_what_narrows():
    assert not RunSpec().selects and not RunSpec().narrows and not RunSpec(device="cuda", keyword="x", timeout=1.0).selects
    assert RunSpec(["native"]).selects and not RunSpec(["native"]).narrows
    assert RunSpec(dtype=["float32"]).narrows and RunSpec(bench=True).narrows and RunSpec(bench=True).selects


def test_help_loads_nothing_heavy():
    code = "import sys, moe_harness.cli.app as app; app.application(); import moe_harness, moe_harness.interface\n"
    code += "print(sorted({'torch', 'transformers', 'pandas', 'matplotlib', 'scipy', 'pytest'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_command_has_a_page_of_help():
    group = typer.main.get_command(application())
    for name in group.commands:  # type: ignore[attr-defined]
        assert CliRunner().invoke(application(), [name, "--help"]).exit_code == 0, name
