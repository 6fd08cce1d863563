"""`python -m allclose`, in docs/studies: the rules that people use today, on the same faults and honest variants as ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def main(
    write: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the counts, the page's tables and its picture there.")] = None,
    counted: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Counts of an earlier run, instead of judging again.")
    ] = None,
    share: Annotated[float, typer.Option("--sample", min=0.01, max=1.0, metavar="SHARE", help="Judge a random share of both.")] = 1.0,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes (default: one per core).")] = None,
) -> None:
    """Judge every fault and honest variant of the catalogue by the rules of today and by ours: kill and alarm rates (minutes)."""
    from allclose.page import COUNTS, PAGE, PICTURE, blocks, dumps, fill
    from allclose.picture import draw
    from allclose.study import study
    from allclose.tally import tally

    counts = json.loads(counted.read_text("utf-8")) if counted else tally(study(workers, share))
    typer.echo(blocks(counts)["rates"])
    if write:
        (write / COUNTS).write_text(dumps(counts), encoding="utf-8")
        fill(write / PAGE, counts)
        draw(counts, write / PICTURE)
        typer.echo(f"{write}: {COUNTS}, {PAGE} and {PICTURE} written")


if __name__ == "__main__":
    typer.run(main)
