"""`moe-harness golden floors`: what honest implementations are off by, measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def floors(
    golden: Annotated[Path | None, typer.Option(metavar="DIR", help="Golden data (default: the packaged ones).")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of every kind of honest implementation.")] = 10,
) -> None:
    """Measure every kind of honest implementation in every dtype and write floors.json. A quarter of an hour on two cores. Exit code 1 if
    more than one in 100 000 samples of kinds, or of cases, exceed the limits made without them."""
    from moe_harness.build_golden import calibrate as make
    from moe_harness.build_golden.build import update_manifest
    from moe_harness.cases.cases import golden_root
    from moe_harness.suite.bounds import table

    root = golden or golden_root()
    made = make.calibrate(root, seeds)
    table.write(made, root / table.FILE)
    update_manifest(root)
    for source, found in made.facts["left_out"].items():
        typer.echo(f"each of the {source} left out: {found['exceeding']} of {found['samples']} samples exceed the limits of the others")
        typer.echo(f"  worst: {found['worst']} at {found['at']}, {found['of_its_limit']:.2f} of its limit")
    if any(found["exceeding"] > table.RARE * found["samples"] for found in made.facts["left_out"].values()):
        raise typer.Exit(1)
