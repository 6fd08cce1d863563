"""`moe-harness selftest`: what the suite kills, how often it alarms on what is honest, how small an error it sees."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

LEAST_SCORE = 0.95  # of the faults of the catalogue


def selftest(
    quick: Annotated[bool, typer.Option("--quick", help="Minutes instead of hours: each fault under the checks named for it.")] = False,
    honest_runs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Whole runs on honest implementations (default: 300; without --quick 3000).")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Keep the figures as golden/selftest.json, which every report shows.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures here.")] = None,
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep endings as they come; a second start goes on from them.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes (default: one per core).")] = None,
) -> None:
    """Measure the harness itself on a numpy subject: kill matrix over the catalogue of real bugs, whole runs on honest variants, smallest
    error seen. Exit codes: 0 at least 95 % of the faults die and nothing honest alarms, 1 otherwise, 2 usage."""
    from rich.console import Console
    from rich.progress import track

    from moe_harness.cases.cases import golden_root
    from moe_harness.processes.threads import default_workers
    from moe_harness.records import selftest_figures
    from moe_harness.selftest import table
    from moe_harness.selftest.measure import LONG, QUICK, measure

    console = Console()

    def watch(items: Iterable[Any], what: str, count: int) -> Iterable[Any]:
        return track(items, f"{what:>21}", count, console=console)

    plan = QUICK if quick else LONG
    found = measure(replace(plan, honest_runs=honest_runs or plan.honest_runs), workers or default_workers("cpu"), ledger, watch)
    table.show(found, console)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", "utf-8")
    if write:
        console.print(f"{selftest_figures.write(golden_root(), found)}: written")
    killed, expressed, alarms = found["faults"]["killed"], found["faults"]["expressed"], found["honest"]["alarms"]
    raise typer.Exit(0 if killed >= LEAST_SCORE * expressed and not alarms else 1)
