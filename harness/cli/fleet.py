"""`moe-harness run --ray`: the checks over a Ray cluster."""

from __future__ import annotations

from pathlib import Path

import typer

from moe_harness.records.record import RUNS, new_run_directory
from moe_harness.records.seal import seal
from moe_harness.run.fleet.cluster import NoCluster
from moe_harness.run.fleet.fan_out import Fleet, fan_out
from moe_harness.run.fleet.plan import planned
from moe_harness.suite.run_spec import RunSpec


def fleet(spec: RunSpec, address: str) -> Path:
    """The run directory. Exits with 2 on what a fleet cannot do, and where there is none."""
    if spec.bench:
        raise typer.BadParameter("--bench times one process at a time on one machine; run it there", param_hint="--ray")
    if spec.budget:
        raise typer.BadParameter("--budget is of this machine's time; a fleet has none in common", param_hint="--ray")
    items = planned(spec)
    directory = spec.run_dir or new_run_directory(RUNS)
    try:
        fan_out(spec, Fleet(address), items, directory)
    except NoCluster as error:
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"seal: {seal(directory)}")
    return directory
