"""`moe-harness report`, and the end of every command that makes one: the report built, the verdict said, the baseline compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from moe_harness.cli.errors import readable_errors
from moe_harness.cli.history import against_base, read_sides, verified
from moe_harness.cli.options import OUT, Base, History, Out
from moe_harness.records.record import RUNS

Verify = Annotated[bool, typer.Option("--verify", help="Recompute every number; exit code 1 if one differs. Writes nothing.")]
Seal = Annotated[str | None, typer.Option("--seal", metavar="HEX", help="With --verify: the seal that the run printed, or its beginning.")]


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories (reports/runs/ID), of one or several machines.")],
    site: Annotated[Path | None, typer.Option(metavar="DIR", help="Instead: a static site with a page for each run, and badges.")] = None,
    out: Out = OUT,
    baseline: Base = None,
    history: History = RUNS,
    verify: Verify = False,
    seal: Seal = None,
) -> None:
    """Rebuild a report from records, also from those of a run that was killed; with --verify, hold a written one against records."""
    if verify:
        verified(runs, out, baseline, history, seal)
    if site is None:
        finish(runs, out, baseline, history)
    from moe_harness.report.site.build import build_site

    if baseline:
        raise typer.BadParameter("--baseline is for one report; on a site every run is compared with the ones before it")
    with readable_errors():
        typer.echo(f"site: {build_site(runs, site)}")


def finish(runs: list[Path], out: Path, baseline: list[str] | None = None, history: Path = RUNS) -> NoReturn:
    """Builds the report, prints the verdict, compares with the baseline, and exits with the verdict's code or else the comparison's."""
    from moe_harness.records.frame import frame_of
    from moe_harness.report.build import build

    with readable_errors():
        frame = frame_of(*read_sides(runs, baseline, history))
        verdict = build(frame, out)
    typer.echo(f"{verdict.word}: {verdict.sentence}")
    for found in verdict.conformances:
        typer.echo(found.sentence)
    typer.echo(f"report: {out / 'index.html'}")
    with readable_errors():
        moved = against_base(frame, out)
    raise typer.Exit(verdict.code or moved)
