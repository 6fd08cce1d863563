"""Some checks asked of one subject on one case in one dtype: judged in this process, and plain enough to cross to another one. Their
endings are kept on disk, a line a trial, so that a long self-test can be stopped and gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from moe_harness.cases.cases import named_cases
from moe_harness.checks.in_process import Check, suite
from moe_harness.records.status import FAILING
from moe_harness.selftest.dials import backend
from moe_harness.selftest.pool import Mapper
from moe_harness.suite.subject import Subject, Workshop

SHOWN = 400  # characters of a reason


@dataclass(frozen=True)
class Trial:
    """`subject`: a name that `dials.backend` knows; `checks`: names of `suite` checks; `seed`: of the data, 0 the golden prompts.
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


Endings = tuple[Ending, ...]


class Ledger:
    """What one version of the harness has found so far; lines of another version, and one that was cut off, do not count. `path` None:
    nothing is kept."""

    def __init__(self, path: Path | None, version: str):
        self.path, self.version = path, version
        self.known = dict(self._read()) if path is not None and path.exists() else {}

    def _read(self) -> Iterator[tuple[str, Endings]]:
        assert self.path is not None
        for line in self.path.read_text("utf-8").splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if found["version"] == self.version:
                yield found["trial"], tuple(Ending(*ending) for ending in found["endings"])

    def held(self, mapper: Mapper, trials: Sequence[Trial]) -> Iterator[Endings]:
        """The endings of every trial, in their order: known ones, and those that `mapper` then makes, each written as it comes."""
        fresh = mapper(hold, [trial for trial in trials if _key(trial) not in self.known])
        for trial in trials:
            if (key := _key(trial)) not in self.known:
                self._add(key, next(fresh))
            yield self.known[key]

    def _add(self, key: str, endings: Endings) -> None:
        self.known[key] = endings
        if self.path is None:
            return
        lines = [(ending.clause, ending.check, ending.status, ending.reason[:SHOWN]) for ending in endings]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"version": self.version, "trial": key, "endings": lines}) + "\n")


def _key(trial: Trial) -> str:
    return json.dumps(asdict(trial))
