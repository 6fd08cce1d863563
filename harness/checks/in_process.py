"""The checks as plain functions: what pytest collects under harness/checks, without pytest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from io import StringIO
from itertools import product
from pkgutil import iter_modules
from typing import Any

import pytest

from moe_harness import checks
from moe_harness.cases.cases import Case, RouterCase
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import concerns
from moe_harness.suite.status import classify
from moe_harness.suite.subject import Subject


@dataclass(frozen=True)
class Check:
    """One function under one set of its parameters. `id`: the clause; `limits`: the keyword arguments of `@clause`."""

    id: str
    function: Callable[..., None]
    limits: Mapping[str, Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique: the clause and the parameters."""
        return self.id + "".join(f"[{value}]" for value in self.parameters.values())

    def asks(self, case: Case | RouterCase, dtype: str) -> bool:
        """Whether the clause is about the case in that dtype."""
        return concerns(dict(self.limits), case) and (not self.limits["dtypes"] or dtype in self.limits["dtypes"])

    def ask(self, subject: Subject) -> Ended:
        """Whatever the subject or the check raises is an ending; only what ends the process passes through. Said aloud is nothing: wrong
        numbers make numpy warn, and Hypothesis prints the steps that led to an error."""
        verdict, error = Verdict(), None
        with redirect_stdout(StringIO()), warnings.catch_warnings(action="ignore"):
            try:
                self.function(subject=subject, verdict=verdict, **self.parameters)
            except (Exception, pytest.skip.Exception, pytest.fail.Exception) as raised:
                error = raised
        return Ended(*classify(error, verdict), verdict)


@dataclass(frozen=True)
class Ended:
    """How a check ended, as its record would say, and what it measured."""

    status: str
    reason: str
    verdict: Verdict


@cache
def suite() -> tuple[Check, ...]:
    """Every check with every set of its parameters, by clause."""
    return tuple(sorted((check for function in _functions() for check in _parametrised(function)), key=lambda check: check.name))


def checks_of(ids: Iterable[str]) -> tuple[Check, ...]:
    """The checks of these clauses. Raises ValueError for a clause without one."""
    asked = set(ids)
    found = tuple(check for check in suite() if check.id in asked)
    if missing := asked - {check.id for check in found}:
        raise ValueError(f"no check of {', '.join(sorted(missing))}")
    return found


def _functions() -> Iterator[Callable[..., None]]:
    for info in iter_modules(checks.__path__):
        if info.name.startswith("test_"):
            module = import_module(f"{checks.__name__}.{info.name}")
            yield from (value for name, value in vars(module).items() if name.startswith("test_") and _marks(value, "clause"))


def _marks(function: Any, name: str) -> list[pytest.Mark]:
    return [mark for mark in getattr(function, "pytestmark", ()) if mark.name == name]


def _parametrised(function: Callable[..., None]) -> Iterator[Check]:
    (clause,) = _marks(function, "clause")
    axes = [[(mark.args[0], value) for value in mark.args[1]] for mark in _marks(function, "parametrize")]
    for chosen in product(*axes):
        yield Check(clause.args[0], function, clause.kwargs, dict(chosen))
