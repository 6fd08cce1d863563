"""Starts pytest on the suite in a process of its own, so that a backend that aborts does not take the report with it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import NoReturn

import typer

from moe_harness.processes import supervision
from moe_harness.processes.threads import default_workers
from moe_harness.records.record import RUNS, new_run_directory
from moe_harness.records.seal import seal
from moe_harness.records.shard import shards
from moe_harness.run import surroundings, workers
from moe_harness.run.budget import OVERRUN_S, seconds
from moe_harness.suite.run_spec import RunSpec

HERE = Path(__file__).parents[1]
PYTEST_USAGE, PYTEST_NOTHING = 4, 5
PLANNING_S = 60.0  # beyond the budget, for a part that has not yet written down what it owes


def launch(spec: RunSpec, parts: Sequence[str]) -> list[Path]:
    """Runs the parts ("checks", "bench") one after the other into one run directory and returns it. Exits with 2 on a usage error or where
    nothing matches; a crash leaves an incomplete run, which the report shows."""
    deadline = _deadline(spec.budget)
    directory = spec.run_dir or new_run_directory(RUNS)
    try:
        codes = [_pytest(part, replace(spec, budget=_left(deadline)), directory) for part in parts]
    except SystemExit:
        typer.echo(f"cancelled: `moe-harness report {directory}` shows what was recorded", err=True)
        raise
    for why in filter(None, (surroundings.believed(code, directory) for code in codes)):
        _give_up(directory, why)
    if PYTEST_USAGE in codes or all(code == PYTEST_NOTHING for code in codes):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
        if PYTEST_USAGE not in codes:
            typer.echo(f"error: no check matches -k {spec.keyword!r}", err=True)
        raise typer.Exit(2)
    if directory.is_dir():  # a pytest that could not even start leaves none
        typer.echo(f"seal: {seal(directory)}")
    return [directory]


def _give_up(directory: Path, why: str) -> NoReturn:
    from moe_harness.bench.models import cache_directory

    places = f"records are in {directory}, temporary files in {gettempdir()}, models for benchmarks in {cache_directory()}"
    typer.echo(f"error: the run stopped because it could not write: {why} ({places})", err=True)
    raise typer.Exit(supervision.INCOMPLETE)


def _deadline(budget: str | None) -> float | None:
    """On the monotonic clock."""
    try:
        return time.monotonic() + seconds(budget) if budget else None
    except ValueError as error:
        typer.echo(f"error: --budget {error}", err=True)
        raise typer.Exit(2) from error


def _left(deadline: float | None) -> str | None:
    """What earlier parts left of the budget: with nothing left a part still writes down its plan."""
    return None if deadline is None else f"{max(0.0, deadline - time.monotonic()):.1f}s"


def _pytest(part: str, spec: RunSpec, directory: Path) -> int | None:
    """Its exit code; None where it had to be ended because it was over the budget."""
    # The golden models are so small that a second thread costs more than it brings: much more where the cores are busy.
    single_thread = part == "checks" and (_workers(part, spec) > 1 or not spec.checkpoint)
    command, variables = pytest_command(part, spec, directory), workers.environment(single_thread)
    if spec.budget is None:
        return supervision.call(command, variables)
    before, limit = len(shards(directory)), seconds(spec.budget) + OVERRUN_S
    latest = time.monotonic() + limit + PLANNING_S
    code = supervision.call(command, variables, limit, lambda: len(shards(directory)) > before or time.monotonic() > latest)
    if code is None:
        typer.echo(f"budget: over by {OVERRUN_S:g} s with a check still under way; {part} ended", err=True)
    return code


def _workers(part: str, spec: RunSpec) -> int:
    """Speeds are measured by one process at a time."""
    if part == "bench":
        return 0
    return default_workers(spec.device) if spec.workers is None else spec.workers


def pytest_command(part: str, spec: RunSpec, directory: Path) -> list[str]:
    """The command that runs "checks" or "bench" into a run directory. The project around the current directory is not consulted: no ini
    file, no conftest, no cache."""
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(HERE), "--noconftest", "-p", "no:cacheprovider"]
    command += ["-q", "--tb=no", "--no-header", "-rE", "-W", "ignore"]
    command += replace(spec, run_dir=directory, bench=part == "bench").arguments(part)
    quiet = ["--benchmark-quiet"] if part == "bench" else []
    return [*command, *quiet, *workers.arguments(_workers(part, spec)), str(HERE / part)]
