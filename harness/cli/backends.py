"""`moe-harness list` and `moe-harness convert`: what backends can do here, and their own formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moe_harness.cli.errors import readable_errors


def list_(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="A config.json, an HF directory or a known model's name.")] = None,
) -> None:
    """List the backends and what they can do here; with CONFIG, what that model is (family, parameters, routing)."""
    from moe_harness.cases import describe

    with readable_errors():
        describe.describe_model(config) if config else describe.describe_backends()


def convert(
    backend: Annotated[str, typer.Argument(metavar="BACKEND", help="NAME[:VARIANT] or MODULE:FACTORY.")],
    src: Annotated[Path, typer.Argument(metavar="SRC", help="Directory to read.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="New or empty directory to write.")],
    to_hf: Annotated[bool, typer.Option("--to-hf", help="SRC is the backend's own directory, DST becomes an HF one.")] = False,
) -> None:
    """Convert an HF directory to a backend's own format, or back."""
    from moe_harness.implementations import registry

    with readable_errors():
        chosen = registry.backend(backend)
        (chosen.to_hf if to_hf else chosen.from_hf)(str(src), str(dst))
        typer.echo(f"{dst}: written by {chosen.name}")
