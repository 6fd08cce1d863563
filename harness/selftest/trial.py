"""Some checks asked of one subject on one case in one dtype: judged in this process, and plain enough to cross to another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from moe_harness.cases.cases import named_cases
from moe_harness.checks.in_process import Check, suite
from moe_harness.records.status import FAILING
from moe_harness.selftest.subjects import backend
from moe_harness.suite.subject import Subject, Workshop


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
    here = room(directory)
    subject = Subject(backend(trial.subject), here.cases[trial.case].seeded(trial.seed), trial.dtype, here.workshop)
    return tuple(_endings(subject, trial))


def _endings(subject: Subject, trial: Trial) -> Iterator[Ending]:
    by_name = {check.name: check for check in suite()}
    for name in trial.checks:
        ending = judge(by_name[name], subject)
        yield ending
        if trial.until_killed and ending.failed:
            return


def judge(check: Check, subject: Subject) -> Ending:
    ended = check.ask(subject)
    return Ending(check.id, check.name, ended.status, ended.reason)


@cache
def room(directory: Path) -> Room:
    own = directory / str(os.getpid())
    own.mkdir(parents=True, exist_ok=True)
    return Room(named_cases(), Workshop(own))
