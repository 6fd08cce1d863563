"""Some checks asked of one subject on one case in one dtype: judged in this process, and plain enough to cross to another one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from harness.cases import golden_cases, router_cases
from harness.record import FAILING
from harness.selftest.subjects import backend
from harness.selftest.suite import Check, suite
from harness.status import classify
from harness.subject import Subject, Workshop
from harness.verdict import Verdict


@dataclass(frozen=True)
class Trial:
    """`subject`: a name that `subjects.backend` knows; `checks`: names of `suite` checks; `seed`: of the data, 0 the golden prompts.
    `until_killed`: no check is asked after one that fails."""

    subject: str
    case: str
    dtype: str
    checks: tuple[str, ...]
    seed: int = 0
    until_killed: bool = False


@dataclass(frozen=True)
class Ending:
    """How a check ended, as its record would say. `check`: with its parameters."""

    clause: str
    check: str
    status: str
    reason: str = ""

    @property
    def failed(self) -> bool:
        return self.status in FAILING


@dataclass(frozen=True)
class Room:
    """What the trials of one process share: open checkpoints, oracles, synthetic checkpoints, loaded models."""

    cases: dict[str, Any]
    workshop: Workshop


def hold(directory: Path, trial: Trial) -> tuple[Ending, ...]:
    """The endings of a trial's checks, in their order. `directory`: where this process may write; the caller removes it."""
    room = _room(directory)
    subject = Subject(backend(trial.subject), room.cases[trial.case].seeded(trial.seed), trial.dtype, room.workshop)
    return tuple(_endings(subject, trial))


def _endings(subject: Subject, trial: Trial) -> Iterator[Ending]:
    by_name = {check.name: check for check in suite()}
    for name in trial.checks:
        ending = judge(by_name[name], subject)
        yield ending
        if trial.until_killed and ending.failed:
            return


def judge(check: Check, subject: Subject) -> Ending:
    """Whatever the subject or the check raises is an ending; only what ends the process passes through. Said aloud is nothing: wrong
    numbers make numpy warn, and Hypothesis prints the steps that led to an error."""
    verdict = Verdict()
    with redirect_stdout(StringIO()), warnings.catch_warnings(action="ignore"):
        try:
            check.function(subject=subject, verdict=verdict, **check.parameters)
        except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
            return Ending(check.id, check.name, *classify(error, verdict))
    return Ending(check.id, check.name, *classify(None, verdict))


@cache
def cases() -> dict[str, Any]:
    """The golden models (`Case`) and the routers by themselves (`RouterCase`), by name."""
    found: list[Any] = [*golden_cases(), *router_cases()]
    return {case.name: case for case in found}


@cache
def _room(directory: Path) -> Room:
    own = directory / str(os.getpid())
    own.mkdir(parents=True, exist_ok=True)
    return Room(cases(), Workshop(own))
