"""The run to compare with: the newest earlier one that is complete, has no failure and was asked the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_harness.records.frame import Frame, Run, frame_of
from moe_harness.records.raw import RawRun, read_raw
from moe_harness.records.record import RecordError
from moe_harness.records.shard import shards
from moe_harness.report.verdict import verdict

LAST_GREEN = "last-green"


@dataclass(frozen=True)
class Baseline:
    """`run`: None where there is none. `passed_over`: (run, why not) of the newer ones, newest first."""

    run: RawRun | None
    passed_over: tuple[tuple[str, str], ...]

    @property
    def sentence(self) -> str:
        """Which one it is, and why not a newer one."""
        head = f"baseline: {self.run.directory}, the last green run" if self.run else "baseline: no green run to compare with"
        return head + "".join(f"\n  passed over {name}: {reason}" for name, reason in self.passed_over)


def base_of(frame: Frame) -> Frame | None:
    """The newest green one of a frame's earlier runs; the newest one if none is green, None if there is none."""
    green = [earlier for earlier in frame.past if verdict(earlier).colour == "green"]
    return next(iter([*reversed(green), *reversed(frame.past)]), None)


def last_green(history: Path, like: Frame, read: Iterable[RawRun] = ()) -> Baseline:
    """The newest green run under `history` that began before `like` did. `read`: those that are not read again. Raises FileNotFoundError
    where there is no such directory."""
    if not history.is_dir():
        raise FileNotFoundError(f"{history}: no such directory of runs")
    known = {raw.directory.resolve(): raw for raw in read}
    passed: list[tuple[str, str]] = []
    for directory in candidates(history):
        try:
            raw = known.get(directory.resolve()) or read_raw(directory)
            reason = unfit(frame_of([raw]), like)
        except RecordError as error:
            passed.append((directory.name, f"unreadable: {error}"))
            continue
        if reason is None:
            return Baseline(raw, tuple(passed))
        passed += [(directory.name, reason)] if reason else []
    return Baseline(None, tuple(passed))


def candidates(history: Path) -> list[Path]:
    """Run directories, newest first: their names begin with the time."""
    return sorted((path for path in history.iterdir() if path.is_dir() and shards(path)), reverse=True)


def unfit(frame: Frame, like: Frame) -> str | None:
    """Why a run is no baseline for `like`, None if it is one; "" for `like` itself and what began later, which nobody would expect."""
    if _started(frame) >= _started(like):
        return ""
    return not_green(frame) or next(_differences(frame, like), None)


def _started(frame: Frame) -> str:
    return min(run.started for run in frame.runs)


def not_green(frame: Frame) -> str:
    """What keeps a run from being green, "" for a green one. Judging nothing is not green either."""
    found = verdict(frame)
    if found.code:
        return f"{found.word}: {found.sentence}"
    return "" if found.counts["passed"] + found.counts["measured"] else "nothing passed"


def _differences(frame: Frame, like: Frame) -> Iterator[str]:
    for what, before, now in zip(("profiles", "backends", "selections"), asked(frame.runs, frame), asked(like.runs, like), strict=True):
        if before != now:
            yield f"asked for other {what}: {', '.join(before) or 'none'} instead of {', '.join(now) or 'none'}"
    if missing := sorted(set(like.rows["kind"]) - set(frame.rows["kind"])):
        yield f"it has no {' and no '.join(missing)}"


def asked(runs: Sequence[Run], frame: Frame) -> tuple[list[str], list[str], list[str]]:
    """(profiles, backends, selections by -k) of a frame."""
    profiles = {str(run.profile["name"]) for run in runs if run.profile}
    chosen = {word for run in runs for command in run.commands for word in _selection(command)}
    return sorted(profiles), sorted(set(frame.rows["backend"])), sorted(chosen)


def _selection(command: Sequence[str]) -> Iterator[str]:
    """What follows -k, and the checkpoints: each makes another list of questions."""
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word == "-k":
            yield f"-k {following}"
        elif word.startswith("--checkpoint="):
            yield Path(word).name
