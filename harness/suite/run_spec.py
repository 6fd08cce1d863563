"""The request for a run, in one place: a field of `RunSpec` is an option of the command line and of pytest, an argument of the pytest that
the command starts, a word of the line that reproduces a failure, and a fact in the run's record. Adding a flag is adding a field.

Imports the standard library alone, so that `--help` is quick. options.py is the side of pytest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Flag:
    """The spelling and the meaning of a field. `commands`: those that have it. `name`, `option`: on their command line and pytest's, where
    these are not the field's own ("" for an option that pytest has already). `parts`: those of a run that it is handed to. `selects`: given
    to pytest by itself, it asks for our checks. `narrows`: less than the whole suite is judged. `requested`: its key in the run's record.
    `repeats`: a failure needs it to happen again. `least`, `choices`: what is allowed."""

    help: str
    metavar: str | tuple[str, str] | None = None
    commands: tuple[str, ...] = ("run", "bench")
    name: str | None = None
    option: str | None = None
    parts: tuple[str, ...] = ("checks", "bench")
    selects: bool = False
    narrows: bool = False
    requested: str = ""
    repeats: bool = False
    least: int | None = None
    choices: tuple[str, ...] = ()


def flag(default: Any, help: str, metavar: str | tuple[str, str] | None = None, **about: Any) -> Any:
    """A field of RunSpec with its Flag."""
    return field(default=default, metadata={"flag": Flag(help, metavar, **about)})


RUN, BENCH, CHECKS, TIMED = ("run",), ("bench",), ("checks",), ("bench",)


@dataclass(frozen=True)
class RunSpec:
    """What is asked of a run. None stands for the suite's own choice."""

    backend: list[str] | None = flag(None, "NAME[:VARIANT] or MODULE:FACTORY; repeatable.", "NAME", selects=True, requested="backends")
    checkpoint: list[Path] | None = flag(
        None,
        "HF directory to judge on instead of the golden models; repeatable.",
        "DIR",
        selects=True,
        narrows=True,
        requested="checkpoints",
    )
    dtype: list[str] | None = flag(
        None, "float32 | bfloat16 | float16; repeatable (default: the first two; benchmarks: bfloat16).", "NAME",
        selects=True, narrows=True, requested="dtypes",
    )  # fmt: skip
    device: str = flag("cpu", "Where backends load their models: cpu | cuda | ...", "NAME", repeats=True)
    golden: Path | None = flag(None, "Golden data (default: the packaged ones).", "DIR", commands=RUN, selects=True, narrows=True)
    require: str | None = flag(
        None, "Fail (exit 3) what did not run on a device.", "device", choices=("device",), selects=True, requested="require"
    )
    keyword: str | None = flag(None, "Only what matches, as in pytest: routing, ROUTE-04, mixtral, ...", "EXPR", name="-k", option="")
    bench: bool = flag(False, "Also run the benchmarks.", commands=RUN, option="benchmark", parts=TIMED, selects=True, narrows=True)
    thorough: bool = flag(False, "Twenty times the generated examples, fresh seeds.", commands=RUN, selects=True)
    expect: list[Path] | None = flag(None, "TOML file of known failures; repeatable.", "FILE", commands=RUN, parts=CHECKS, selects=True)
    profile: str | None = flag(
        None, "Judge exactly what a profile lists, and say whether it conforms.", "NAME",
        commands=RUN, parts=CHECKS, selects=True, narrows=True,
    )  # fmt: skip
    workers: int | None = flag(
        None, "Processes for the checks (default: one per core; one in all on a device).", "N", commands=RUN, option="", least=0
    )
    budget: str | None = flag(
        None, "Start nothing after 45m, 1h30m, ..., end all 10 s later: the most telling checks first, the rest is INCOMPLETE.", "TIME",
        commands=RUN, selects=True,
    )  # fmt: skip
    python: list[str] | None = flag(
        None, "Run backend NAME in a worker, under the interpreter PATH; repeatable.", "NAME=PATH",
        selects=True, requested="pythons", repeats=True,
    )  # fmt: skip
    timeout: float | None = flag(
        None, "Longest call of a backend under --python (default: 600).", "SECONDS", option="worker-timeout", repeats=True
    )
    wide: bool = flag(
        False, "More sizes, all skews, single layers of true shape (4 GB in the cache).", commands=BENCH, parts=TIMED, repeats=True
    )
    routing_trace: Path | None = flag(
        None, "Expert loads or ids of a real run, to be replayed.", "FILE", commands=BENCH, parts=TIMED, repeats=True
    )
    pair: tuple[str, str] | None = flag(
        None, "Time two backends (or one twice) in ABBA order and judge B against A; exit 1 if B is slower, twice.", ("A", "B"),
        commands=BENCH, parts=TIMED, selects=True,
    )  # fmt: skip
    pair_delta: float | None = flag(
        None, "With --pair: a change that counts as none (default: 0.02).", "SHARE", commands=BENCH, name="--delta", parts=TIMED
    )
    pair_confidence: float | None = flag(
        None, "With --pair: of the ratio's interval (default: 0.95).", "P", commands=BENCH, name="--confidence", parts=TIMED
    )
    pair_budget: float | None = flag(
        None, "With --pair: of a series (default: 20 blocks of 4 to 48 rounds).", "SECONDS", commands=BENCH, name="--budget", parts=TIMED
    )
    run_dir: Path | None = flag(None, "Where records go (default: reports/runs/ID).", "DIR")

    def given(self) -> Iterator[tuple[Option, Any]]:
        """The fields that are not at their default."""
        for each in options():
            value = getattr(self, each.name)
            if value != each.default and value not in (None, []):
                yield each, value

    def arguments(self, part: str) -> Iterator[str]:
        """The arguments of the pytest that runs a part."""
        for each, value in self.given():
            if each.option and part in each.flag.parts:
                yield from each.words(each.option, value)
        if self.keyword:
            yield from ("-k", self.keyword)

    def repeated(self, command: str, subjects: Iterable[str]) -> Iterator[str]:
        """The options of a command that a failure of these backends needs to happen again; another backend's interpreter is none."""
        wanted = tuple(subjects)
        python = [word for name in dict.fromkeys(wanted) for word in self.python or () if word.partition("=")[0] == name]
        for each, value in replace(self, python=python, timeout=self.timeout if python else None).given():
            if each.flag.repeats and command in each.flag.commands:
                yield from each.words(each.command_line, value)

    def requested(self) -> dict[str, Any]:
        """The facts about the request in the run's record."""
        return {each.flag.requested: getattr(self, each.name) for each in options() if each.flag.requested}

    @property
    def selects(self) -> bool:
        """Whether it asks pytest for our checks."""
        return any(each.flag.selects for each, _ in self.given())

    @property
    def narrows(self) -> bool:
        """Whether it asks for less than the whole suite."""
        return any(each.flag.narrows for each, _ in self.given())


@dataclass(frozen=True)
class Option:
    """A field of RunSpec as the command line and pytest see it."""

    name: str
    type: Any
    default: Any
    flag: Flag

    @property
    def command_line(self) -> str:
        return self.flag.name or "--" + self.name.replace("_", "-")

    @property
    def option(self) -> str:
        """pytest's; "" where pytest has it of its own."""
        own = self.name.replace("_", "-") if self.flag.option is None else self.flag.option
        return f"--{own}" if own else ""

    @property
    def destination(self) -> str:
        return "moe_" + self.option.lstrip("-").replace("-", "_")

    @property
    def item(self) -> Any:
        """The type of a value, of one value where there are several."""
        inner = next((each for each in get_args(self.type) if each is not type(None)), self.type)
        return get_args(inner)[0] if get_origin(inner) in (list, tuple) else inner

    @property
    def is_list(self) -> bool:
        return any(get_origin(each) is list for each in get_args(self.type))

    @property
    def is_pair(self) -> bool:
        return any(get_origin(each) is tuple for each in get_args(self.type))

    def typed(self, value: Any) -> Any:
        """The value that pytest parsed, in the field's type."""
        if value is None or self.item is not Path:
            return tuple(value) if self.is_pair and value else value
        return [Path(each) for each in value] if self.is_list else Path(value)

    def attributes(self) -> dict[str, Any]:
        """The arguments of pytest's addoption."""
        about: dict[str, Any] = {"dest": self.destination, "help": self.flag.help.replace("%", "%%")}
        if self.type is bool:
            return about | {"action": "store_true"}
        about |= {"default": self.default}
        about |= {"choices": list(self.flag.choices)} if self.flag.choices else {"metavar": self.flag.metavar}
        return about | ({"action": "append"} if self.is_list else {"nargs": 2} if self.is_pair else self._type())

    def _type(self) -> dict[str, Any]:
        return {"type": self.item} if self.item in (int, float) else {}

    def words(self, name: str, value: Any) -> Iterator[str]:
        """The option with its value on a command line."""
        if self.type is bool:
            yield name
        elif self.is_list:
            yield from (f"{name}={each}" for each in value)
        elif self.is_pair:
            yield from (name, *value)
        else:
            yield from ((f"{name}={_number(value)}",) if isinstance(value, float) else (name, str(value)))


def _number(value: float) -> str:
    """All its digits, and no point where none is needed."""
    return str(int(value)) if value.is_integer() else repr(value)


@cache
def options(spec: type = RunSpec) -> tuple[Option, ...]:
    """The fields of RunSpec in their order."""
    types = get_type_hints(spec)
    return tuple(Option(each.name, types[each.name], each.default, each.metadata["flag"]) for each in fields(spec))
