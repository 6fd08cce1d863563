"""Options that several commands share; those of `run` and `bench` are the fields of RunSpec."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from moe_harness.suite.run_spec import Option, RunSpec, options

OUT = Path("reports") / "latest"
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the report goes.")]
History = Annotated[Path, typer.Option("--history", metavar="DIR", help="Where earlier runs are.")]
Base = Annotated[
    list[str] | None,
    typer.Option("--baseline", metavar="last-green|DIR", help="Compare with the last green run, or with this one; several are merged."),
]


def takes_spec(command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function whose first parameter is a RunSpec into a command: the fields that `command` has become its options, before those of
    its own."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        ours = [each for each in options() if command in each.flag.commands]

        @wraps(function)
        def entry(**given: Any) -> None:
            function(RunSpec(**{each.name: given.pop(each.name) for each in ours}), **given)

        hints = get_type_hints(function, include_extras=True)
        _, *theirs = inspect.signature(function).parameters.values()
        own = [parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY) for parameter in theirs]
        parameters = [*map(_parameter, ours), *own]
        entry.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        entry.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return entry

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    metavar = " ".join(option.flag.metavar) if isinstance(option.flag.metavar, tuple) else option.flag.metavar
    about = typer.Option(option.command_line, metavar=metavar, help=option.flag.help, min=option.flag.least)
    annotation: Any = Annotated[option.type, about]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=annotation)
