"""Clauses that one engine alone fails: the others show that the clause can be met on the same model in the same dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_harness.records.status import FAILING, Status, rank
from moe_harness.report.order import short_dtype, topic_key

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Alone:
    """`engine` fails `check` at `places` ("mixtral f32"), where `others` pass it. `row`: its first failure."""

    engine: str
    check: str
    title: str
    places: tuple[str, ...]
    others: tuple[str, ...]
    row: Row


def alone(rows: Mapping[str, Sequence[Row]]) -> list[Alone]:
    """`rows`: engine -> its check rows. By engine, then in the specification's order. An engine that is not judged at a place has no say;
    without another that passes there, nobody is alone."""
    worst = _worst(rows)
    found: dict[tuple[str, str], list[tuple[Row, tuple[str, ...]]]] = {}
    for by_engine in worst.values():
        failing = [name for name, row in by_engine.items() if row["status"] in FAILING]
        passing = tuple(sorted(name for name, row in by_engine.items() if row["status"] == Status.PASS))
        if len(failing) == 1 and passing:
            row = by_engine[failing[0]]
            found.setdefault((failing[0], row["check"]), []).append((row, passing))
    made = [_alone(name, members) for (name, _), members in found.items()]
    return sorted(made, key=lambda each: (each.engine, topic_key(each.row["topic"]), each.check))


def _worst(rows: Mapping[str, Sequence[Row]]) -> dict[tuple[str, str, str], dict[str, Row]]:
    """(check, case, dtype) -> engine -> its row with the worst status there: variants of an engine count as one."""
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    for name, members in rows.items():
        for row in members:
            by_engine = found.setdefault((row["check"], row["case"], row["dtype"]), {})
            if name not in by_engine or rank(row["status"]) < rank(by_engine[name]["status"]):
                by_engine[name] = row
    return found


def _alone(name: str, members: Sequence[tuple[Row, tuple[str, ...]]]) -> Alone:
    row = members[0][0]
    places = tuple(f"{each['case']} {short_dtype(each['dtype'])}" for each, _ in members)
    others = tuple(sorted({other for _, passing in members for other in passing}))
    return Alone(name, row["check"], row["title"], places, others, row)
