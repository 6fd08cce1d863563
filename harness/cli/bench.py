"""`moe-harness bench`: speeds; with --pair, two backends against each other; with --self-test, the timing itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moe_harness.cli.options import OUT, Out, takes_spec
from moe_harness.records.status import Status
from moe_harness.suite.run_spec import RunSpec


@takes_spec("bench")
def bench(
    spec: RunSpec,
    self_test: Annotated[bool, typer.Option("--self-test", help="How often A/A is flagged and +5 % is seen, on this machine.")] = False,
    trials: Annotated[int, typer.Option(min=1, metavar="N", help="With --self-test: A/A trials; of +5 %, a third.")] = 90,
    write: Annotated[bool, typer.Option("--write", help="With --self-test: keep the figures as reports/timing-selftest.json.")] = False,
    out: Out = OUT,
) -> None:
    """Time backends on a 371 M-parameter Mixtral (made on first use, 0.7 GB in the cache) or on your checkpoint. Wrong ones get VOID."""
    from moe_harness.cli.report import finish
    from moe_harness.run.launch import launch

    if self_test:
        _self_test(trials, write)
    if spec.pair and spec.backend:
        _usage("--pair names both backends; leave --backend out")
    if not spec.pair and any(value is not None for value in (spec.pair_delta, spec.pair_confidence, spec.pair_budget)):
        _usage("--delta, --confidence and --budget go with --pair A B")
    runs = launch(spec, ["bench"])
    for run in runs if spec.pair else ():
        _show_pairs(run)
    finish(runs, out)


def _usage(sentence: str) -> None:
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(2)


def _show_pairs(run: Path) -> None:
    """A line for each pair."""
    from moe_harness.records.record import read_run

    for record in read_run(run):
        if record["type"] == "pair":
            typer.echo(pair_line(record))


def pair_line(record: dict[str, Any]) -> str:
    """Who against whom on what, the answer, and how small a change would have been seen."""
    what = f"{record['b']} against {record['a']}, {record['workload']} {record['case']} {record['dtype']}"
    if record["status"] not in (Status.PASS, Status.FAIL):
        return f"{what}: {record['status']} {record['reason']}"
    if record["ratio"] is None:
        return f"{what}: {record['verdict']}, {record['note']}"
    change, low, high = (f"{100 * (record[name] - 1):+.2f} %" for name in ("ratio", "low", "high"))
    number = f"time {change} [{low}, {high}], would see {100 * record['mde']:.1f} %"
    disturbed = f", {len(record['disturbed'])} of {sum(record['blocks'])} blocks disturbed" if record["disturbed"] else ""
    return f"{what}: {record['verdict']}, {number}{disturbed}" + (f" ({record['note']})" if record["note"] else "")


def _self_test(trials: int, write: bool) -> None:
    """Shows the figures and exits: 0 where they reach the bar."""
    from rich.console import Console

    from moe_harness.bench import timing_selftest
    from moe_harness.records.timing_figures import FILE, machine

    console = Console()
    found = timing_selftest.measure(trials, console) | {"machine": machine()}
    timing_selftest.show(found, console)
    if write:
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", "utf-8")
        console.print(f"{FILE}: written")
    raise typer.Exit(0 if timing_selftest.reaches_the_bar(found) else 1)
