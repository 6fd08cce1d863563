"""What a run would ask, without asking it: pytest collects in a process of its own, with listing.py as a plug-in."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from moe_harness.run.fleet import listing
from moe_harness.run.fleet.share import Identity
from moe_harness.run.launch import PYTEST_NOTHING, pytest_command
from moe_harness.run.workers import environment
from moe_harness.suite.run_spec import RunSpec


def planned(spec: RunSpec) -> list[Identity]:
    """The identities of all checks. Exits with 2 on a usage error, which pytest has told, and where nothing matches."""
    with TemporaryDirectory(prefix="moe-harness-plan-") as scratch:
        path = Path(scratch) / "plan.json"
        command = [*pytest_command("checks", spec, Path(scratch) / "run"), "--collect-only", "-qq", "-p", listing.__name__]
        variables = {**environment(False), listing.VARIABLE: str(path)}
        done = subprocess.run(command, env=variables, stdout=subprocess.DEVNULL, check=False)
        if path.exists() and (items := json.loads(path.read_text("utf-8"))):
            return items
    if done.returncode in (0, PYTEST_NOTHING):
        typer.echo(f"error: no check matches -k {spec.keyword!r}", err=True)
    raise typer.Exit(2)
