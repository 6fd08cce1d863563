"""The command line: run | kernel | explain | recheck | bench | report | list | convert | golden | selftest. Bad input gets one clear line
and exit code 2."""

from __future__ import annotations

from functools import cache

import typer

from moe_harness.cli.last_words import one_line
from moe_harness.processes.supervision import cancellable


@cache
def application() -> typer.Typer:
    """The commands with their subcommands. What a command needs it imports when it runs: `--help` loads no numpy and no pytest."""
    from moe_harness.cli import backends, bench, explain, history, kernel, report, run, selftest
    from moe_harness.cli.golden import golden_app

    app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", help=__doc__, pretty_exceptions_enable=False)
    app.command("run")(run.run)
    app.command("report")(report.report)
    app.command("list")(backends.list_)
    app.command("convert")(backends.convert)
    app.command("bench")(bench.bench)
    app.command("kernel")(kernel.kernel)
    app.command("explain")(explain.explain)
    app.command("recheck")(explain.recheck)
    app.command("selftest")(selftest.selftest)
    history.register(app)
    app.add_typer(golden_app, name="golden")
    return app


def main() -> None:
    """Console script. Exit codes that every command has: 143 (130 for SIGINT) cancelled, 4 where the surroundings do not let it work."""
    with one_line(), cancellable():
        application()()
