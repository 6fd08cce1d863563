"""`moe-harness run`: the checks, and the benchmarks where they are asked for."""

from __future__ import annotations

from typing import Annotated

import typer

from moe_harness.cli.options import OUT, Base, History, Out, takes_spec
from moe_harness.records.record import RUNS
from moe_harness.suite.run_spec import RunSpec


@takes_spec("run")
def run(
    spec: RunSpec,
    baseline: Base = None,
    history: History = RUNS,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Share the checks out over a Ray cluster: HOST:PORT, auto or local.")
    ] = None,
    out: Out = OUT,
) -> None:
    """Judge backends and write a report. Exit codes: 0 fine, 1 new failure, 2 usage, 3 required device missing, 4 incomplete."""
    from moe_harness.cli.report import finish

    if ray is not None:
        from moe_harness.cli.fleet import fleet

        finish([fleet(spec, ray)], out, baseline, history)
    from moe_harness.run.launch import launch

    finish(launch(spec, ["checks", "bench"] if spec.bench else ["checks"]), out, baseline, history)
