"""What a reader must know of speeds before the tables: which are VOID, and which are slower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.status import Status
from moe_harness.report.compare.diff import since
from moe_harness.report.order import Labels, place_key, short_dtype
from moe_harness.report.pairs import pairs
from moe_harness.report.text import ratio, seconds


@dataclass(frozen=True)
class Alert:
    """`word`: VOID | slower; `what`: the workloads; `where`: backend, case, dtype; `detail`: why, or by how much; `reproduce`: a command,
    of the first of several workloads."""

    word: str
    what: str
    where: str
    detail: str
    reproduce: str


def alerts(frame: Frame) -> list[Alert]:
    """VOID first, then what was slower in pairs, then what is slower than in the run that is compared with."""
    return [*_void(frame), *_in_pairs(frame), *_since(frame)]


def _where(frame: Frame, row: Mapping[str, Any]) -> str:
    return " · ".join(filter(None, (Labels(frame)(row), row["case"], short_dtype(row["dtype"]))))


def _void(frame: Frame) -> Iterator[Alert]:
    """What is VOID for one reason at one place, together: a wrong model is wrong in every workload."""
    rows = [row for kind in ("bench", "pair") for row in frame.of(kind, Status.VOID)]
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (place_key(row), row["check"], row["id"])):
        found.setdefault((_where(frame, row), row["reason"]), []).append(row)
    for (where, reason), members in found.items():
        names = [f"{row['check']} {row['parameters']}" if len(members) == 1 else row["check"] for row in members]
        yield Alert(Status.VOID, ", ".join(dict.fromkeys(names)), where, reason, members[0]["reproduce"])


def _in_pairs(frame: Frame) -> Iterator[Alert]:
    for pair in pairs(frame):
        if pair.verdict == "slower":
            interval = f"{ratio(pair.low)} to {ratio(pair.high)}"
            detail = f"{pair.gain} time against {pair.a} ({interval}), timed in turn"
            yield _slower(frame, pair.row, detail)


def _since(frame: Frame) -> Iterator[Alert]:
    found = since(frame)
    for change in found.paces if found else ():
        if found and change.verdict == "slower":
            weight = "in every run by itself, so it counts" if change in found.gating else "not timed in turn, so a hint"
            detail = f"{seconds(change.before)} then, {seconds(change.after)} now; {weight}"
            yield _slower(frame, found.run.rows[change.key][0], detail)


def _slower(frame: Frame, row: Mapping[str, Any], detail: str) -> Alert:
    return Alert("slower", f"{row['check']} {row['parameters']}", _where(frame, row), detail, row["reproduce"])
