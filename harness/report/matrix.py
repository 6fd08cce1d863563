"""The matrix of checks by backends: columns as detailed as fits, cells with the worst status of what they merge."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from harness.report.failures import anchors
from harness.report.frame import Frame
from harness.report.order import Labels, place_key, short_dtype, topic_key
from harness.report.status import STATUSES, status, worst

MOST_COLUMNS = 12  # what leaves room for a second panel on 1280 pixels
FEW_LINES = 20  # fit the first screen in one panel, with their whole titles
DETAILS = (("backend", "case", "dtype"), ("backend", "dtype"), ("backend",))
_NARROWEST, _WIDEST, _CHARACTER = 32, 72, 8  # pixels
_EXECUTIONS = ("emulated", "cpu", "device")  # weakest evidence about a device first

Key = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """`execution`: the weakest of the merged records; `tip`: counts by status and where; `anchor`: the failure it links to."""

    symbol: str
    tone: str
    execution: str
    tip: str
    anchor: str


@dataclass(frozen=True)
class Line:
    """`cells` has None where nothing was planned."""

    check: str
    topic: str
    title: str
    cells: tuple[Cell | None, ...]


Topic = tuple[Line, ...]


@dataclass(frozen=True)
class Head:
    """A header cell over `span` columns."""

    text: str
    span: int


@dataclass(frozen=True)
class Matrix:
    """`heads`: header rows from backend to dtype. `widths`: of the columns, in pixels. `panels`: lines by topic, so split that they can
    stand side by side."""

    heads: tuple[tuple[Head, ...], ...]
    widths: tuple[int, ...]
    panels: tuple[tuple[Topic, ...], ...]


def matrix(frame: Frame) -> Matrix | None:
    """The frame's matrix, None without checks."""
    labels = Labels(frame)
    rows = [row | {"place": labels(row)} for row in sorted(frame.of("check"), key=place_key)]
    if not rows:
        return None
    detail, keys = _columns(rows)
    found = anchors(frame)
    lines, heads = _lines(rows, detail, keys, found), _heads(keys)
    return Matrix(heads, _widths(heads[0]), _panels(lines, 2 if len(keys) <= MOST_COLUMNS else 1))


def _key(row: Mapping[str, Any], detail: Sequence[str]) -> Key:
    names = {"backend": row["place"], "case": row["case"], "dtype": short_dtype(row["dtype"])}
    return tuple(names[name] for name in detail)


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], list[Key]]:
    for detail in DETAILS:
        keys = list(dict.fromkeys(_key(row, detail) for row in rows))
        if len(keys) <= MOST_COLUMNS:
            break
    return detail, keys


def _heads(keys: Sequence[Key]) -> tuple[tuple[Head, ...], ...]:
    return tuple(_spans([key[: depth + 1] for key in keys]) for depth in range(len(keys[0])))


def _spans(prefixes: Sequence[Key]) -> tuple[Head, ...]:
    heads: list[Head] = []
    for position, prefix in enumerate(prefixes):
        if position and prefix == prefixes[position - 1]:
            heads[-1] = Head(heads[-1].text, heads[-1].span + 1)
        else:
            heads.append(Head(prefix[-1], 1))
    return tuple(heads)


def _widths(backends: Sequence[Head]) -> tuple[int, ...]:
    """Wide enough for the longest part of a backend's name that should not break, within limits."""
    widths: list[int] = []
    for head in backends:
        longest = max(len(part) for part in re.split(r"[:@ ]", head.text))
        widths += [min(_WIDEST, max(_NARROWEST, 8 + _CHARACTER * longest // head.span))] * head.span
    return tuple(widths)


def _lines(rows: Sequence[Mapping[str, Any]], detail: Sequence[str], keys: Sequence[Key], found: Mapping[str, str]) -> list[Line]:
    merged: dict[str, dict[Key, list[Mapping[str, Any]]]] = {}
    for row in rows:
        merged.setdefault(row["check"], {}).setdefault(_key(row, detail), []).append(row)
    topics = {row["check"]: row["topic"] for row in rows}
    titles = {row["check"]: row["title"] for row in rows if row["title"]}
    cells = {check: tuple(_cell(by[key], found) if key in by else None for key in keys) for check, by in merged.items()}
    ordered = sorted(merged, key=lambda name: (topic_key(topics[name]), name))
    return [Line(check, topics[check], titles.get(check, ""), cells[check]) for check in ordered]


def _cell(rows: Sequence[Mapping[str, Any]], found: Mapping[str, str]) -> Cell:
    counts = Counter(row["status"] for row in rows)
    shown = status(worst(counts))
    execution = min((row["execution"] for row in rows if row["execution"] in _EXECUTIONS), key=_EXECUTIONS.index, default="")
    tally = ", ".join(f"{counts[s.name]} {s.name}" for s in STATUSES if s.name in counts)
    places = list(dict.fromkeys(" ".join(filter(None, (row["place"], row["case"], row["dtype"]))) for row in rows))
    where = "; ".join([*places[:4], *["…"] * (len(places) > 4)])
    tip = f"{rows[0]['check']}: {tally} ({where}{', ' * bool(execution)}{execution})"
    anchor = next((found[row["id"]] for row in rows if row["id"] in found and row["status"] == shown.name), "")
    return Cell(shown.symbol, shown.tone, execution, tip, anchor)


def _panels(lines: Sequence[Line], most: int) -> tuple[tuple[Topic, ...], ...]:
    """At most two panels, cut between topics, as even as that allows; few lines stay together."""
    topics = [tuple(members) for _, members in groupby(lines, key=lambda line: line.topic)]
    if most < 2 or len(lines) <= FEW_LINES or len(topics) < 2:
        return (tuple(topics),)
    ends = list(accumulate(len(topic) for topic in topics))[:-1]
    cut = min(range(len(ends)), key=lambda index: abs(2 * ends[index] - len(lines))) + 1
    return tuple(topics[:cut]), tuple(topics[cut:])
