"""Endings on disk, a line a trial, so that a long self-test can be stopped and gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from moe_harness.selftest.pool import Mapper
from moe_harness.selftest.trial import Ending, Trial, hold

Endings = tuple[Ending, ...]
SHOWN = 400  # characters of a reason


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
