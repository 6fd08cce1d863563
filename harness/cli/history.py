"""`moe-harness diff | history | prune | records`, and what `run` and `report` do about earlier runs and about seals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from moe_harness.cli.errors import readable_errors
from moe_harness.cli.options import Base, History
from moe_harness.records.record import RUNS

if TYPE_CHECKING:
    from moe_harness.records.frame import Frame
    from moe_harness.records.raw import RawRun
    from moe_harness.report.compare.diff import Diff

PUBLISHED = Path("reports") / "published"
Markdown = Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Also write it as Markdown.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write it as JSON.")]
records_app = typer.Typer(no_args_is_help=True, help="Records as other programs see them: `check`, `schema`, `migrate`.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("diff")(diff)
    app.command("history")(history)
    app.command("prune")(prune)
    app.add_typer(records_app, name="records")


def diff(
    runs: Annotated[list[Path], typer.Argument(metavar="BASE RUN...", help="Run directories; with --baseline all are the RUN side.")],
    baseline: Base = None,
    history: History = RUNS,
    margin: Annotated[float, typer.Option(min=0.001, help="A speed within this part of the base's is equivalent.")] = 0.05,
    gate_speed: Annotated[bool, typer.Option("--gate-speed", help="A slower speed gives exit code 1.")] = False,
    markdown: Markdown = None,
    json_file: Json = None,
) -> None:
    """Say what differs between runs: surroundings, new failures, what vanished, speeds. Exit codes: 0 nothing to worry about, 1 a new
    failure or something vanished (or a speed gates), 2 usage, 4 something was planned and not run."""
    from moe_harness.records.frame import frame_of
    from moe_harness.report.compare.diff import compare

    with readable_errors():
        base, after = _sides(runs, baseline, history)
        if not base:
            raise typer.Exit(0)
        found = compare(frame_of(base), frame_of(after), margin, gate_speed)
        _show(found)
        _write(found, markdown, json_file)
    raise typer.Exit(found.code)


def _sides(runs: list[Path], baseline: list[str] | None, history: Path) -> tuple[list[RawRun], list[RawRun]]:
    """(base, nothing where no run is green; the others). Raises ValueError for too few."""
    if not baseline and len(runs) < 2:
        raise ValueError("diff needs BASE and RUN, or --baseline")
    read, base = read_sides(runs, baseline, history)
    return (base, read) if baseline else (read[:1], read[1:])


def read_sides(runs: list[Path], baseline: list[str] | None, history: Path) -> tuple[list[RawRun], list[RawRun]]:
    """The runs and what `--baseline` means, each directory parsed once."""
    from moe_harness.records.raw import read_raw

    read = [read_raw(directory) for directory in runs]
    return read, _chosen(baseline or [], history, read)


def _chosen(baseline: Sequence[str], history: Path, runs: list[RawRun]) -> list[RawRun]:
    """The runs that `--baseline` means; says which one is the last green, and why not a newer one."""
    from moe_harness.records.frame import frame_of
    from moe_harness.records.raw import read_raw
    from moe_harness.report.compare.baseline import LAST_GREEN, last_green

    named = [read_raw(Path(name)) for name in baseline if name != LAST_GREEN]
    if LAST_GREEN not in baseline:
        return named
    found = last_green(history, frame_of(runs), [*runs, *named])
    typer.echo(found.sentence)
    return [*named, found.run] if found.run else named


def against_base(frame: Frame, out: Path) -> int:
    """Shows a frame's diff against its base, writes it beside the report, and returns its exit code; 0 where there is no base."""
    from moe_harness.report.compare.diff import since

    found = since(frame)
    if found is None:
        return 0
    _show(found)
    _write(found, out / "diff.md", out / "diff.json")
    return found.code


def verified(runs: list[Path], out: Path, baseline: list[str] | None, history: Path, anchor: str | None) -> NoReturn:
    """Exits with 1 where a number is not what its raw data say, else with 0. `baseline`: as the report was built with."""
    from moe_harness.bench.compare import again
    from moe_harness.report.compare.verify import WrittenReport, verify

    with readable_errors():
        read, base = read_sides(runs, baseline, history)
        found = verify(WrittenReport(read, out, base, anchor, again))
    for line in (*found.findings, *found.notes, found.sentence):
        typer.echo(str(line))
    raise typer.Exit(1 if found.findings else 0)


def history(
    history: History = RUNS,
    keyword: Annotated[str, typer.Option("-k", metavar="TEXT", help="Only series whose name contains this.")] = "",
    markdown: Markdown = None,
    json_file: Json = None,
) -> None:
    """Show the runs so far and where a speed, or an error relative to its bound, took a step."""
    from moe_harness.report.compare import listing
    from moe_harness.report.compare.store import update
    from moe_harness.report.compare.tables import markdown as as_markdown
    from moe_harness.report.compare.tables import terminal
    from moe_harness.report.compare.trend import trends

    with readable_errors():
        entries = update(history)
        found = [trend for trend in trends(entries) if keyword in trend.name]
        tables = listing.tables(entries, found)
        typer.echo(f"{listing.sentence(entries, found)}\n\n{terminal(tables)}")
        if markdown is not None:
            _write_text(markdown, as_markdown(tables) + "\n")
        if json_file is not None:
            _write_json(json_file, {"schema": 1, "runs": entries, "trends": [vars(trend) for trend in found]})


def prune(
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="The newest runs.")] = 30,
    keep_green: Annotated[int, typer.Option(min=1, metavar="M", help="The newest green ones.")] = 10,
    history: History = RUNS,
    published: Annotated[Path, typer.Option(metavar="DIR", help="Runs that are committed here are never deleted.")] = PUBLISHED,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; without this, only say which.")] = False,
) -> None:
    """Delete old runs, never the last green one of any kind nor a published one. Their line in the history stays. A dry run by default."""
    from moe_harness.report.compare import prune as pruning
    from moe_harness.report.compare.baseline import candidates
    from moe_harness.report.compare.store import update

    with readable_errors():
        entries = update(history)
        present = {path.name for path in candidates(history)}
        kept = {path.name for path in published.iterdir()} if published.is_dir() else set()
        decisions = pruning.decide(entries, present, kept, keep, keep_green)
        gone = pruning.delete(history, decisions) if delete else []
    for decision in decisions:
        typer.echo(f"{'keep' if decision.why else 'delete'} {decision.run}" + (f": {decision.why}" if decision.why else ""))
    going = sum(not decision.why for decision in decisions)
    typer.echo(f"{len(gone)} deleted" if delete else f"{going} of {len(decisions)} would be deleted: --delete does it")


@records_app.command("check")
def records_check(runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")]) -> None:
    """Hold every record against its JSON Schema. Exit codes: 0 all fit, 1 some do not, 2 usage or no jsonschema."""
    from moe_harness.records import schema
    from moe_harness.records.lines import lines

    with readable_errors():
        if not schema.available():
            raise ValueError(schema.MISSING)
        found = [(run, line) for run in runs for line in lines(run)]
        problems = [f"{run / line.shard}:{line.number}: {text}" for run, line in found for text in schema.sentences(line.record)]
    for problem in problems:
        typer.echo(problem)
    typer.echo(f"{len(found)} records, {len(problems)} problems")
    raise typer.Exit(1 if problems else 0)


@records_app.command("schema")
def records_schema(kind: Annotated[str | None, typer.Argument(metavar="TYPE", help="run, check, bench, ...")] = None) -> None:
    """Print the JSON Schema of a record type, or list the types."""
    from moe_harness.records import schema

    with readable_errors():
        typer.echo(json.dumps(schema.schema(kind), indent=2) if kind else "\n".join(schema.types()))


@records_app.command("migrate")
def records_migrate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="New directory.")],
) -> None:
    """Write a run's records in today's form."""
    from moe_harness.records.migrate import migrate_run

    with readable_errors():
        typer.echo(f"{target}: {migrate_run(run, target)} records")


def _show(found: Diff) -> None:
    from moe_harness.report.compare.render import heading, tables
    from moe_harness.report.compare.tables import terminal

    typer.echo("\n\n".join(filter(None, (heading(found), terminal(tables(found))))))


def _write(found: Diff, markdown: Path | None, json_file: Path | None) -> None:
    from moe_harness.report.compare.render import as_json, as_markdown

    if markdown is not None:
        _write_text(markdown, as_markdown(found))
    if json_file is not None:
        _write_json(json_file, as_json(found))


def _write_json(path: Path, value: Any) -> None:
    """Sorted keys: the same value gives the same bytes."""
    _write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def _write_text(path: Path, text: str) -> None:
    from moe_harness.records.whole import replace

    replace(path, text)
