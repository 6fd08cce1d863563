"""The command line: run | kernel | explain | recheck | bench | report | list | convert | golden | selftest. Bad input gets one clear line
and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from moe_harness.cli.history import Base, History, Seal, Verify, against_base, read_sides, register, verified
from moe_harness.cli.last_words import one_line
from moe_harness.processes.supervision import cancellable
from moe_harness.run.launch import RUNS, Launch, launch

OUT = Path("reports") / "latest"
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", help=__doc__, pretty_exceptions_enable=False)

DTYPES_HELP = "float32 | bfloat16 | float16; repeatable (default: the first two; benchmarks: bfloat16)."
Backends = Annotated[list[str] | None, typer.Option("--backend", metavar="NAME", help="NAME[:VARIANT] or MODULE:FACTORY; repeatable.")]
Checkpoints = Annotated[
    list[Path] | None,
    typer.Option("--checkpoint", metavar="DIR", help="HF directory to judge on instead of the golden models; repeatable."),
]
Dtypes = Annotated[
    list[str] | None,
    typer.Option("--dtype", metavar="NAME", help=DTYPES_HELP),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="Where backends load their models: cpu | cuda | ...")]
Require = Annotated[str | None, typer.Option(metavar="device", help="Fail (exit 3) what did not run on a device.")]
Keyword = Annotated[str | None, typer.Option("-k", metavar="EXPR", help="Only what matches, as in pytest: routing, ROUTE-04, mixtral, ...")]
Expect = Annotated[list[Path] | None, typer.Option("--expect", metavar="FILE", help="TOML file of known failures; repeatable.")]
Profile = Annotated[str | None, typer.Option(metavar="NAME", help="Judge exactly what a profile lists, and say whether it conforms.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Processes for the checks (default: one per core; one in all on a device)."),
]
Pythons = Annotated[
    list[str] | None,
    typer.Option("--python", metavar="NAME=PATH", help="Run backend NAME in a worker, under the interpreter PATH; repeatable."),
]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="Longest call of a backend under --python (default: 600).")]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Start nothing after 45m, 1h30m, ..., end all 10 s later: the most telling checks first, the rest is INCOMPLETE.",
    ),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the report goes.")]
RunDir = Annotated[Path | None, typer.Option(metavar="DIR", help=f"Where records go (default: {RUNS}/ID).")]


@app.command()
def run(
    backend: Backends = None,
    checkpoint: Checkpoints = None,
    dtype: Dtypes = None,
    device: Device = "cpu",
    golden: Annotated[Path | None, typer.Option(metavar="DIR", help="Golden data (default: the packaged ones).")] = None,
    require: Require = None,
    keyword: Keyword = None,
    bench: Annotated[bool, typer.Option("--bench", help="Also run the benchmarks.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="Twenty times the generated examples, fresh seeds.")] = False,
    expect: Expect = None,
    profile: Profile = None,
    workers: Workers = None,
    budget: Budget = None,
    python: Pythons = None,
    timeout: Timeout = None,
    baseline: Base = None,
    history: History = RUNS,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Share the checks out over a Ray cluster: HOST:PORT, auto or local.")
    ] = None,
    out: Out = OUT,
    run_dir: RunDir = None,
) -> None:
    """Judge backends and write a report. Exit codes: 0 fine, 1 new failure, 2 usage, 3 required device missing, 4 incomplete."""
    common = (backend, checkpoint, dtype, device, golden, require, keyword, thorough, python, timeout)
    asked = Launch(*common, expect=expect, profile=profile, workers=workers, budget=budget)
    if ray is not None:
        from moe_harness.cli.fleet import fleet

        finish([fleet(asked, ray, bench, run_dir)], out, baseline, history)
    finish(launch(asked, ["checks", "bench"] if bench else ["checks"], run_dir), out, baseline, history)


@app.command()
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
    with _readable_errors():
        typer.echo(f"site: {build_site(runs, site)}")


@app.command("list")
def list_(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="A config.json, an HF directory or a known model's name.")] = None,
) -> None:
    """List the backends and what they can do here; with CONFIG, what that model is (family, parameters, routing)."""
    from moe_harness.cases import describe

    with _readable_errors():
        describe.describe_model(config) if config else describe.describe_backends()


@app.command()
def convert(
    backend: Annotated[str, typer.Argument(metavar="BACKEND", help="NAME[:VARIANT] or MODULE:FACTORY.")],
    src: Annotated[Path, typer.Argument(metavar="SRC", help="Directory to read.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="New or empty directory to write.")],
    to_hf: Annotated[bool, typer.Option("--to-hf", help="SRC is the backend's own directory, DST becomes an HF one.")] = False,
) -> None:
    """Convert an HF directory to a backend's own format, or back."""
    from moe_harness.implementations import registry

    with _readable_errors():
        chosen = registry.backend(backend)
        (chosen.to_hf if to_hf else chosen.from_hf)(str(src), str(dst))
        typer.echo(f"{dst}: written by {chosen.name}")


def finish(runs: list[Path], out: Path, baseline: list[str] | None = None, history: Path = RUNS) -> NoReturn:
    """Builds the report, prints the verdict, compares with the baseline, and exits with the verdict's code or else the comparison's."""
    from moe_harness.records.frame import frame_of
    from moe_harness.report.build import build

    with _readable_errors():
        frame = frame_of(*read_sides(runs, baseline, history))
        verdict = build(frame, out)
    typer.echo(f"{verdict.word}: {verdict.sentence}")
    for found in verdict.conformances:
        typer.echo(found.sentence)
    typer.echo(f"report: {out / 'index.html'}")
    with _readable_errors():
        moved = against_base(frame, out)
    raise typer.Exit(verdict.code or moved)


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Bad input becomes one line on stderr and exit code 2; anything unexpected keeps its traceback."""
    from moe_harness.implementations.interface import CheckpointError, Unsupported
    from moe_harness.implementations.registry import BrokenBackend, UnknownBackend
    from moe_harness.records.record import RecordError

    try:
        yield
    except (CheckpointError, Unsupported, UnknownBackend, BrokenBackend, RecordError, FileNotFoundError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


@cache
def application() -> typer.Typer:
    """The commands with their subcommands."""
    from moe_harness.cli.bench import bench
    from moe_harness.cli.explain import explain, recheck
    from moe_harness.cli.golden import golden_app
    from moe_harness.cli.kernel import kernel
    from moe_harness.cli.selftest import selftest

    app.command("bench")(bench)
    app.command("kernel")(kernel)
    app.command("explain")(explain)
    app.command("recheck")(recheck)
    app.command("selftest")(selftest)
    register(app)
    app.add_typer(golden_app, name="golden")
    return app


def main() -> None:
    """Console script. Exit codes that every command has: 143 (130 for SIGINT) cancelled, 4 where the surroundings do not let it work."""
    with one_line(), cancellable():
        application()()


if __name__ == "__main__":
    main()
