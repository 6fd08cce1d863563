"""What differs from the last green run: failures that are new, fixed or gone, speeds, versions. Two frames in, no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from moe_harness.records.frame import Frame, Run
from moe_harness.records.record import FAILING
from moe_harness.records.status import rank
from moe_harness.report.speed import Speed, speeds
from moe_harness.report.verdict import verdict

NOTICED = 1.05  # a change of speed from night to night below 5 % is not worth a reader's minute
_JUDGED = (*FAILING, "PASS", "INCONCLUSIVE", "KNOWN")
_FACTS = ("cpu", "cores", "threads", "accelerators", "os", "python")
Key = tuple[str, str, str, str, str, str]


@dataclass(frozen=True)
class Change:
    """One check or workload at one place, with the status (or seconds) of then and of now."""

    key: Key
    before: str
    after: str

    @property
    def name(self) -> str:
        return " ".join(part for part in self.key[1:] if part)


@dataclass(frozen=True)
class Pace:
    """A speed of now against then; `ratio`: times as long."""

    speed: Speed
    ratio: float


@dataclass(frozen=True)
class Since:
    """`base`: what is compared with; `new`: ids of rows that fail and did not; `facts`: (name, then, now) of what differs in versions and
    machine. Speeds are compared only on the same machine; they were not measured in turn, so they are hints."""

    base: Frame
    new: frozenset[str]
    failed: tuple[Change, ...]
    fixed: tuple[Change, ...]
    vanished: tuple[Change, ...]
    paces: tuple[Pace, ...]
    facts: tuple[tuple[str, str, str], ...]


@lru_cache(maxsize=4)  # every section of a page asks
def since(frame: Frame) -> Since | None:
    """The newest green one of the frame's earlier runs against the frame; the newest one if none is green, None if there is none."""
    base = _base(frame)
    return None if base is None else _compare(frame, base)


def _base(frame: Frame) -> Frame | None:
    green = [earlier for earlier in frame.past if verdict(earlier).colour == "green"]
    return next(iter([*reversed(green), *reversed(frame.past)]), None)


def _compare(frame: Frame, base: Frame) -> Since:
    now, then = _statuses(frame), _statuses(base)
    failed = [Change(key, then.get(key, "not asked"), now[key]) for key in now if now[key] in FAILING and then.get(key) not in FAILING]
    fixed = [Change(key, then[key], now[key]) for key in now if now[key] == "PASS" and then.get(key) in FAILING]
    gone = [Change(key, then[key], now.get(key, "not asked")) for key in then if then[key] in _JUDGED and now.get(key) not in _JUDGED]
    keys = {change.key for change in failed}
    new = frozenset(row["id"] for row in frame.records() if _key(row) in keys and row["status"] in FAILING)
    facts = tuple(_facts(base.runs[0], frame.runs[0]))
    return Since(base, new, tuple(failed), tuple(fixed), tuple(gone), tuple(_paces(frame, base)), facts)


def _key(row: Mapping[str, Any]) -> Key:
    return (row["kind"], row["check"], row["backend"], row["case"], row["dtype"], row["parameters"] if row["kind"] != "check" else "")


def _statuses(frame: Frame) -> dict[Key, str]:
    """The worst status of each place."""
    found: dict[Key, str] = {}
    for row in frame.records():
        key = _key(row)
        found[key] = min(found.get(key, row["status"]), row["status"], key=rank)
    return found


def _paces(frame: Frame, base: Frame) -> Iterator[Pace]:
    """Medians whose intervals lie apart and that differ by more than NOTICED, slowest first."""
    then = {_place(speed): speed for speed in speeds(base)}
    pairs = ((speed, then[_place(speed)]) for speed in speeds(frame) if _place(speed) in then)
    found = [Pace(new, new.median / old.median) for new, old in pairs if new.median and old.median and _apart(new, old)]
    yield from sorted((pace for pace in found if max(pace.ratio, 1 / pace.ratio) > NOTICED), key=lambda pace: -pace.ratio)


def _place(speed: Speed) -> tuple[str, ...]:
    return (*speed.group, str(speed.row["backend"]))


def _apart(new: Speed, old: Speed) -> bool:
    if new.low is None or new.high is None or old.low is None or old.high is None:
        return False
    return new.low > old.high or new.high < old.low


def _commit(run: Run) -> str:
    return str(run.environment.get("commit") or "unknown")[:10] + " + changes" * bool(run.environment.get("dirty"))


def _facts(then: Run, now: Run) -> Iterator[tuple[str, str, str]]:
    commits = [_commit(run) for run in (then, now)]
    if commits[0] != commits[1]:
        yield "commit", commits[0], commits[1]
    packages = [run.environment.get("packages") or {} for run in (then, now)]
    for name in sorted({*packages[0], *packages[1]}):
        if packages[0].get(name) != packages[1].get(name):
            yield name, str(packages[0].get(name, "absent")), str(packages[1].get(name, "absent"))
    for name in ("hostname", *_FACTS):
        if then.environment.get(name) != now.environment.get(name):
            yield name, str(then.environment.get(name)), str(now.environment.get(name))
