"""The workflows of .github/, as far as they can be known without GitHub: they parse, what they refer to exists, their shell is shell."""

from __future__ import annotations

import configparser
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from moe_harness.cli.app import application

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / ".github" / "workflows"
NAMES = sorted(path.name for path in FOLDER.glob("*.yml"))
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
CONTEXTS = {"github", "matrix", "inputs", "vars", "env", "needs", "steps", "runner", "secrets"}
FUNCTIONS = {"cancelled", "always", "success", "failure", "fromJSON", "toJSON", "contains", "format", "hashFiles"}


def workflow(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text)
    return {("on" if key is True else key): value for key, value in found.items()}  # YAML 1.1 takes `on` for a truth value


def complaints(text: str) -> list[str]:
    """Everything that is wrong with a workflow's text."""
    found = workflow(text)
    if missing := {"name", "on", "permissions", "jobs"} - found.keys():
        return [f"no {', '.join(sorted(missing))}"]
    of_jobs = (f"{name}: {problem}" for name, job in found["jobs"].items() for problem in _job(found, job))
    return [*_expressions(text), *of_jobs]


def _expressions(text: str) -> Iterator[str]:
    if text.count("${{") != len(EXPRESSION.findall(text)):
        yield "an expression is not closed"
    for inner in EXPRESSION.findall(text):
        bare = re.sub(r"'[^']*'", "", inner)
        for name, called in re.findall(r"(?<![.\w])([A-Za-z_]\w*)(\s*\()?", bare):
            if name not in (FUNCTIONS if called else CONTEXTS):
                yield f"unknown {name} in an expression"


def _job(found: dict[str, Any], job: dict[str, Any]) -> Iterator[str]:
    needs = job.get("needs", [])
    yield from (f"needs {name}, which is no job" for name in ([needs] if isinstance(needs, str) else needs) if name not in found["jobs"])
    if "timeout-minutes" not in job:
        yield "no timeout-minutes"
    axes = job.get("strategy", {}).get("matrix", {})
    used = {name for inner in EXPRESSION.findall(yaml.dump(job)) for name in re.findall(r"\bmatrix\.(\w+)", inner)}
    yield from (f"no axis {name} in the matrix" for name in sorted(used - axes.keys()))
    if "matrix." in str(job.get("if", "")):
        yield "the matrix is not known to a job's `if`"
    for step in job["steps"]:
        yield from _step(step)


def _step(step: dict[str, Any]) -> Iterator[str]:
    if ("uses" in step) == ("run" in step):
        yield "a step either uses an action or runs a command"
    if "uses" in step and not re.fullmatch(r"[\w.-]+/[\w./-]+@(v\d+|[0-9a-f]{40})", step["uses"]):
        yield f"{step['uses']} is not pinned"
    if "run" in step:
        yield from _shell(step["run"])


def _shell(text: str) -> Iterator[str]:
    if EXPRESSION.search(text):
        yield "an expression inside a shell line can inject commands: hand it over in env"
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        yield f"no shell: {done.stderr.strip()}"
    yield from (f"no tox environment {name}" for name in re.findall(r"\btox -e (\S+)", text) if name not in tox_environments())
    for command, rest in re.findall(r"moe-harness (\w+)((?:[^\n\\]|\\\n)*)", text):
        yield from (f"moe-harness {command} has no {option}" for option in options(rest) - known(command))


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def known(command: str) -> set[str]:
    """The options of one of our commands; of an unknown command, none and so a complaint about its first one."""
    found = typer.main.get_command(application()).commands.get(command)  # type: ignore[attr-defined]
    return {option for parameter in found.params for option in parameter.opts} if found else set()


def tox_environments() -> set[str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(REPO / "tox.ini", encoding="utf-8")
    return {name.removeprefix("testenv:") for name in parser.sections() if name.startswith("testenv:")}


def uploads(found: dict[str, Any]) -> list[str]:
    steps = [step for job in found["jobs"].values() for step in job["steps"]]
    return [str(step["with"]["name"]) for step in steps if step.get("uses", "").startswith("actions/upload-artifact")]


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_is_sound(name: str):
    assert complaints((FOLDER / name).read_text("utf-8")) == []


def test_there_are_workflows():
    assert {"ci.yml", "nightly.yml"} <= set(NAMES)


def nightly() -> str:
    return (FOLDER / "nightly.yml").read_text("utf-8")


def test_what_the_merge_downloads_is_what_the_runs_upload():
    found = workflow(nightly())
    download = next(step for step in found["jobs"]["merge"]["steps"] if step.get("uses", "").startswith("actions/download-artifact"))
    prefix = download["with"]["pattern"].removesuffix("*")
    runs = [name for name in uploads(found) if name not in ("report", "junit")]
    assert len(runs) == 2 and all(name.startswith(prefix) for name in runs)
    assert not [name for name in ("report", "junit") if name.startswith(prefix)]


def test_the_arguments_that_tox_hands_on_are_known():
    """`tox -e cpu -- ARGS` hands them to `moe-harness run`."""
    handed = [options(line.split(" -- ", 1)[1]) for line in nightly().splitlines() if "tox -e cpu -- " in line]
    assert len(handed) == 1 and handed[0] <= known("run")


def test_devices_are_off_until_a_variable_names_their_runners():
    job = workflow(nightly())["jobs"]["device"]
    assert job["if"] == "${{ vars.NIGHTLY_DEVICES != '' }}" and "self-hosted" in job["runs-on"]
    assert any("--require device" in step.get("run", "") for step in job["steps"])


SOUND = """
name: x
on: push
permissions: {contents: read}
jobs:
  a:
    runs-on: ubuntu-latest
    timeout-minutes: 5
    steps:
      - run: tox -e cpu
"""


def test_a_sound_workflow_has_no_complaint():
    assert complaints(SOUND) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("timeout-minutes: 5", "needs: b\n    timeout-minutes: 5", "a: needs b, which is no job"),
        ("timeout-minutes: 5", "", "a: no timeout-minutes"),
        ("tox -e cpu", "tox -e gpu", "a: no tox environment gpu"),
        ("run: tox -e cpu", "uses: actions/checkout@main", "a: actions/checkout@main is not pinned"),
        ("run: tox -e cpu", "run: if true; then", "no shell"),
        ("run: tox -e cpu", "run: echo ${{ github.event.head }}", "can inject"),
        ("run: tox -e cpu", "run: moe-harness run --no-such", "a: moe-harness run has no --no-such"),
        ("run: tox -e cpu", "run: moe-harness walk --bench", "a: moe-harness walk has no --bench"),
        ("ubuntu-latest", "${{ matrix.os }}", "a: no axis os in the matrix"),
        ("ubuntu-latest", "${{ gihtub.ref }}", "unknown gihtub in an expression"),
        ("ubuntu-latest", "${{ canceled() }}", "unknown canceled in an expression"),
        ("ubuntu-latest", "${{ github.ref", "an expression is not closed"),
        ("permissions: {contents: read}", "", "no permissions"),
    ],
)
def test_what_is_wrong_is_found(old: str, new: str, said: str):
    assert old in SOUND
    assert any(said in complaint for complaint in complaints(SOUND.replace(old, new)))
