"""The matrices of checks, or of their topics, by backends: columns as detailed as fits, cells with the worst status of what they merge."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.status import STATUSES, Status, worst
from moe_harness.report.failures import anchors, groups
from moe_harness.report.order import TOPICS, Labels, place_key, short_dtype, topic_key

MOST_COLUMNS = 12  # what leaves room for a second panel on 1280 pixels
FEW_COLUMNS = 8  # and for the failures beside an overview
FEW_LINES = 20  # fit the first screen in one panel
DETAILS = (("backend", "case", "dtype"), ("backend", "dtype"), ("backend",))
_NARROWEST, _WIDEST, _CHARACTER, _SMALL = 32, 90, 8, 6.9  # pixels; of a character in a backend's name, and below it
_WHERE = 0.7  # of a character of where it ran, in those of its name
EXECUTIONS = ("emulated", "cpu", "device")  # weakest evidence about a device first

Key = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """`execution`: the weakest of the merged records; `tip`: counts by status and where; `anchor`: the failure it links to; `count`: how
    many of the merged records have the status that is shown, of passes beside gaps the gaps."""

    symbol: str
    tone: str
    execution: str
    tip: str
    anchor: str
    count: int = 1


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
    """A header cell over `span` columns. `tall`: too long to be written across them. `execution`: where a backend ran. `cases`: what its
    columns merge."""

    text: str
    span: int
    tall: bool = False
    execution: str = ""
    cases: tuple[str, ...] = ()

    @property
    def merged(self) -> str:
        """ "mixtral", "3 cases", or nothing."""
        return f"{len(self.cases)} cases" if len(self.cases) > 1 else "".join(self.cases)


@dataclass(frozen=True)
class Matrix:
    """`heads`: header rows from backend to dtype. `widths`: of the columns, in pixels. `panels`: lines by topic, so split that they can
    stand side by side. `whole`: a line is a check and not a topic."""

    heads: tuple[tuple[Head, ...], ...]
    widths: tuple[int, ...]
    panels: tuple[tuple[Topic, ...], ...]
    whole: bool = True


def matrix(frame: Frame) -> Matrix | None:
    """A line a check, None without checks."""
    rows = _rows(frame)
    return _matrix(frame, rows, MOST_COLUMNS, None) if rows else None


def overview(frame: Frame) -> Matrix | None:
    """What fits beside the failures: a line a check where they are few, else a line a topic; None without checks."""
    rows = _rows(frame)
    few = len({row["check"] for row in rows}) <= FEW_LINES
    return _matrix(frame, rows, FEW_COLUMNS, None if few else TOPICS) if rows else None


def cells(found: Matrix) -> Iterator[Cell | None]:
    """All of them."""
    return (cell for topics in found.panels for topic in topics for line in topic for cell in line.cells)


def _rows(frame: Frame) -> list[dict[str, Any]]:
    labels = Labels(frame)
    return [row | {"place": labels(row)} for row in sorted(frame.of("check"), key=place_key)]


def _matrix(frame: Frame, rows: Sequence[Mapping[str, Any]], most: int, topics: Mapping[str, str] | None) -> Matrix:
    detail, keys = _columns(rows, most)
    found = anchors(groups(frame))
    if topics is None:
        topics_or_checks, titles = rows, {str(row["check"]): str(row["title"]) for row in rows if row["title"]}
    else:
        topics_or_checks, titles = [{**row, "check": row["topic"]} for row in rows], dict(topics)
    lines = _lines(topics_or_checks, titles, detail, keys, found)
    backends = _backends(keys, _executions(rows), {} if "case" in detail else _cases(rows))
    widths = _widths(backends)
    below = (_below([key[: depth + 1] for key in keys], widths) for depth in range(1, len(keys[0])))
    panels = _panels(lines, 2 if topics is None and most == MOST_COLUMNS >= len(keys) else 1)
    return Matrix((backends, *below), widths, panels, topics is None)


def _key(row: Mapping[str, Any], detail: Sequence[str]) -> Key:
    names = {"backend": row["place"], "case": row["case"], "dtype": short_dtype(row["dtype"])}
    return tuple(names[name] for name in detail)


def _columns(rows: Sequence[Mapping[str, Any]], most: int) -> tuple[Sequence[str], list[Key]]:
    for detail in DETAILS:
        keys = list(dict.fromkeys(_key(row, detail) for row in rows))
        if len(keys) <= most:
            break
    return detail, keys


def _executions(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Where each backend ran: "cpu", or "cpu, emulated"."""
    return {place: ", ".join(sorted(names & set(EXECUTIONS), reverse=True)) for place, names in _by_backend(rows, "execution").items()}


def _cases(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """On what each backend ran."""
    return {place: tuple(sorted(names - {""})) for place, names in _by_backend(rows, "case").items()}


def _by_backend(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["place"], set()).add(row[column])
    return found


def _backends(keys: Sequence[Key], executions: Mapping[str, str], cases: Mapping[str, tuple[str, ...]]) -> tuple[Head, ...]:
    """The first header row, with where each backend ran, and on what where columns do not say it."""
    found = [(place, len(list(members))) for place, members in groupby(key[0] for key in keys)]
    return tuple(Head(place, span, execution=executions.get(place, ""), cases=cases.get(place, ())) for place, span in found)


def _below(prefixes: Sequence[Key], widths: Sequence[int]) -> tuple[Head, ...]:
    """A header row further down: neighbours with one prefix share a head; what is too long for its columns is written upwards."""
    heads: list[Head] = []
    for prefix, members in groupby(zip(prefixes, widths, strict=True), key=lambda pair: pair[0]):
        room = [width for _, width in members]
        heads.append(Head(prefix[-1], len(room), tall=_SMALL * len(prefix[-1]) > sum(room)))
    return tuple(heads)


def _widths(backends: Sequence[Head]) -> tuple[int, ...]:
    """Wide enough for the longest part of a backend's name, or of where and on what it ran, that should not break, within limits."""
    widths: list[int] = []
    for head in backends:
        small = max(len(head.execution.split(", ")[0]), len(head.merged))
        longest = max(*(len(part) for part in re.split(r"[:@/. ]", head.text)), _WHERE * small)
        widths += [min(_WIDEST, max(_NARROWEST, 8 + int(_CHARACTER * longest) // head.span))] * head.span
    return tuple(widths)


def _lines(
    rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str], detail: Sequence[str], keys: Sequence[Key], found: Mapping[str, str]
) -> list[Line]:
    merged: dict[str, dict[Key, list[Mapping[str, Any]]]] = {}
    for row in rows:
        merged.setdefault(row["check"], {}).setdefault(_key(row, detail), []).append(row)
    topics = {row["check"]: row["topic"] for row in rows}
    cells = {check: tuple(_cell(by[key], found) if key in by else None for key in keys) for check, by in merged.items()}
    ordered = sorted(merged, key=lambda name: (topic_key(topics[name]), name))
    return [Line(check, topics[check], titles.get(check, ""), cells[check]) for check in ordered]


def _cell(rows: Sequence[Mapping[str, Any]], found: Mapping[str, str]) -> Cell:
    counts = Counter(row["status"] for row in rows)
    shown = of_cell(counts)
    execution = min((row["execution"] for row in rows if row["execution"] in EXECUTIONS), key=EXECUTIONS.index, default="")
    tally = ", ".join(f"{counts[status]} {status}" for status in STATUSES if status in counts)
    places = list(dict.fromkeys(" ".join(filter(None, (row["place"], row["case"], row["dtype"]))) for row in rows))
    where = "; ".join([*places[:4], *["…"] * (len(places) > 4)])
    tip = f"{rows[0]['check']}: {tally} ({where}{', ' * bool(execution)}{execution})"
    anchor = next((found[row["id"]] for row in rows if row["id"] in found and row["status"] == shown), "")
    return Cell(shown.symbol, shown.tone, execution, tip, anchor, counts[Status.UNSUPPORTED if shown is Status.PARTLY else shown])


def of_cell(counts: Mapping[str, int]) -> Status:
    """The worst, but of passes beside declared gaps both."""
    return Status.PARTLY if set(counts) == {Status.PASS, Status.UNSUPPORTED} else Status(worst(counts))


def _panels(lines: Sequence[Line], most: int) -> tuple[tuple[Topic, ...], ...]:
    """At most two panels, cut between topics, as even as that allows; few lines stay together."""
    topics = [tuple(members) for _, members in groupby(lines, key=lambda line: line.topic)]
    if most < 2 or len(lines) <= FEW_LINES or len(topics) < 2:
        return (tuple(topics),)
    ends = list(accumulate(len(topic) for topic in topics))[:-1]
    cut = min(range(len(ends)), key=lambda index: abs(2 * ends[index] - len(lines))) + 1
    return tuple(topics[:cut]), tuple(topics[cut:])
