"""`moe-harness explain` and `moe-harness recheck`: what a capsule says, and whether another build still fails it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from moe_harness.repro.capsule import Capsule

File = Annotated[Path, typer.Argument(metavar="FILE", help="A capsule: reports/runs/ID/capsules/*.safetensors.")]
Pythons = Annotated[
    list[str] | None, typer.Option("--python", metavar="NAME=PATH", help="Run the backend in a worker, under the interpreter PATH.")
]
AS_RECORDED, OTHERWISE, BAD_FILE = 0, 1, 2


def explain(file: File) -> None:
    """Say in words what a failed check saw, and which known bug does the same. Needs neither the backend nor torch. Exit codes: 0 fails as
    recorded, 1 does not, 2 no capsule."""
    from moe_harness.diagnosis.account import account
    from moe_harness.repro.storage import CapsuleError, read

    try:
        found = account(read(file), file)
    except (CapsuleError, FileNotFoundError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_FILE) from error
    for line in found.lines:
        typer.echo(line)
    raise typer.Exit(AS_RECORDED if found.fails else OTHERWISE)


def recheck(
    file: File,
    backend: Annotated[str, typer.Option("--backend", metavar="NAME", help="NAME[:VARIANT] or MODULE:FACTORY.")],
    python: Pythons = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu | cuda | ...")] = "cpu",
) -> None:
    """Ask a backend again what a capsule asks. Exit codes as `git bisect run` wants them: 0 passes, 1 fails, 125 cannot be judged."""
    from moe_harness.repro.storage import CapsuleError, read
    from moe_harness.run.recheck import CANNOT

    try:
        capsule = read(file)
    except (CapsuleError, FileNotFoundError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(CANNOT) from error
    code, sentence = _asked(capsule, backend, python, device)
    typer.echo(f"{capsule.check} on {capsule.identity['case']}, {capsule.identity['dtype']}: {backend} {sentence}")
    raise typer.Exit(code)


def _asked(capsule: Capsule, backend: str, python: list[str] | None, device: str) -> tuple[int, str]:
    """(exit code, sentence)."""
    from moe_harness.run.recheck import CANNOT, can_ask_again, recheck, run_check
    from moe_harness.suite.hosts import Hosts, parse

    if not can_ask_again(capsule.exhibit):
        outcome = run_check(capsule, backend, python)
        return outcome.code, outcome.sentence
    hosts = Hosts(parse(python or (), [backend]))
    try:
        outcome = recheck(capsule, hosts.backend(backend), device)
        return outcome.code, outcome.sentence
    except Exception as error:  # whatever importing a half-way build raises
        return CANNOT, f"cannot be loaded: {type(error).__name__}: {error}"
    finally:
        hosts.close()
