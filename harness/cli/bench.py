"""`moe-harness bench`: speeds; with --pair, two backends against each other; with --self-test, the timing itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moe_harness.cli.app import OUT, Backends, Checkpoints, Device, Dtypes, Keyword, Out, Pythons, Require, RunDir, Timeout, finish
from moe_harness.records.record import read_run
from moe_harness.run.launch import Launch, launch

Pair = Annotated[
    tuple[str, str] | None,
    typer.Option(metavar="A B", help="Time two backends (or one twice) in ABBA order and judge B against A; exit 1 if B is slower, twice."),
]


def bench(
    backend: Backends = None,
    checkpoint: Checkpoints = None,
    dtype: Dtypes = None,
    device: Device = "cpu",
    require: Require = None,
    keyword: Keyword = None,
    python: Pythons = None,
    timeout: Timeout = None,
    wide: Annotated[bool, typer.Option("--wide", help="More sizes, all skews, single layers of true shape (4 GB in the cache).")] = False,
    routing_trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Expert loads or ids of a real run, to be replayed.")] = None,
    pair: Pair = None,
    delta: Annotated[float | None, typer.Option(metavar="SHARE", help="With --pair: a change that counts as none (default: 0.02).")] = None,
    confidence: Annotated[float | None, typer.Option(metavar="P", help="With --pair: of the ratio's interval (default: 0.95).")] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="With --pair: of a series (default: 20 blocks of 4 to 48 rounds).")
    ] = None,
    self_test: Annotated[bool, typer.Option("--self-test", help="How often A/A is flagged and +5 % is seen, on this machine.")] = False,
    trials: Annotated[int, typer.Option(min=1, metavar="N", help="With --self-test: A/A trials; of +5 %, a third.")] = 90,
    write: Annotated[bool, typer.Option("--write", help="With --self-test: keep the figures as reports/timing-selftest.json.")] = False,
    out: Out = OUT,
    run_dir: RunDir = None,
) -> None:
    """Time backends on a 371 M-parameter Mixtral (made on first use, 0.7 GB in the cache) or on your checkpoint. Wrong ones get VOID."""
    if self_test:
        _self_test(trials, write)
    if pair and backend:
        _usage("--pair names both backends; leave --backend out")
    if not pair and any(value is not None for value in (delta, confidence, budget)):
        _usage("--delta, --confidence and --budget go with --pair A B")
    asked = Launch(
        backend, checkpoint, dtype, device, None, require, keyword, False, python, timeout,
        wide=wide, routing_trace=routing_trace, pair=pair, pair_delta=delta, pair_confidence=confidence, pair_budget=budget,
    )  # fmt: skip
    runs = launch(asked, ["bench"], run_dir)
    for run in runs if pair else ():
        _show_pairs(run)
    finish(runs, out)


def _usage(sentence: str) -> None:
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(2)


def _show_pairs(run: Path) -> None:
    """A line for each pair."""
    for record in read_run(run):
        if record["type"] == "pair":
            typer.echo(pair_line(record))


def pair_line(record: dict[str, Any]) -> str:
    """Who against whom on what, the answer, and how small a change would have been seen."""
    what = f"{record['b']} against {record['a']}, {record['workload']} {record['case']} {record['dtype']}"
    if record["status"] not in ("PASS", "FAIL"):
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
