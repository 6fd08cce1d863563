"""Which runs to keep: the newest, the newest green ones, of every kind the last green one, and whatever is published."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Decision:
    """`why`: what keeps it, or "" where it goes."""

    run: str
    why: str


def decide(entries: Sequence[Mapping[str, Any]], present: set[str], published: set[str], keep: int, keep_green: int) -> list[Decision]:
    """For every run that is still present, newest first. `entries`: of the store, oldest first."""
    newest = [entry for entry in reversed(entries) if entry["run"] in present]
    green = [str(entry["run"]) for entry in newest if is_green(entry)]
    last = {_kind(entry): str(entry["run"]) for entry in entries if entry["run"] in present and is_green(entry)}
    recent = {str(entry["run"]) for entry in newest[:keep]}
    return [Decision(run, _why(run, published, set(last.values()), recent, set(green[:keep_green]))) for run in _names(newest)]


def is_green(entry: Mapping[str, Any]) -> bool:
    counts = entry.get("counts") or {}
    return entry["code"] == 0 and counts.get("passed", 0) + counts.get("measured", 0) > 0


def delete(history: Path, decisions: Sequence[Decision]) -> list[Path]:
    """Removes the directories of runs that nothing keeps. Returns them."""
    gone = [history / decision.run for decision in decisions if not decision.why]
    for directory in gone:
        shutil.rmtree(directory)
    return gone


def _kind(entry: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Runs of which each can be a baseline of its own: see baseline.py."""
    return tuple(tuple(entry.get(name) or ()) for name in ("profiles", "backends", "selection"))


def _names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(entry["run"]) for entry in entries]


def _why(run: str, published: set[str], last: set[str], recent: set[str], green: set[str]) -> str:
    reasons = (("published", published), ("the last green one of its kind", last), ("recent", recent), ("green", green))
    return next((why for why, runs in reasons if run in runs), "")
