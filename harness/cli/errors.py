"""Bad input on the command line: one line on stderr and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn errors about input into one line and exit code 2; anything unexpected keeps its traceback."""
    from moe_harness.implementations.interface import CheckpointError, Unsupported
    from moe_harness.implementations.registry import BrokenBackend, UnknownBackend
    from moe_harness.records.record import RecordError

    try:
        yield
    except (CheckpointError, Unsupported, UnknownBackend, BrokenBackend, RecordError, FileNotFoundError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
