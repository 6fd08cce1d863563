"""The rows that make a verdict red, worst first; those of one check and backend together, with the anchors under which they are shown."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from moe_harness.records.frame import KINDS, Frame
from moe_harness.records.status import FAILING, Status, rank
from moe_harness.report.compare.diff import since
from moe_harness.report.heatmap import grid_of
from moe_harness.report.order import Labels, place_key, short_dtype, topic_key
from moe_harness.report.text import multiple, number

NAMED = 3  # models
SHOWN = 100  # groups on the page; the CSV and JUnit files hold all rows
Row = Mapping[str, Any]
_LAYER = re.compile(r"\bMoE layer (\d+)")


@dataclass(frozen=True)
class Group:
    """The failing rows of one check and backend, worst first. `new`: one of them did not fail in the run that is compared with, None where
    there is no such run."""

    place: str
    rows: tuple[Row, ...]
    new: bool | None

    @property
    def worst(self) -> Row:
        return self.rows[0]

    @property
    def where(self) -> str:
        """ "mixtral, olmoe · f32"; the matrix has the names of more."""
        cases = list(dict.fromkeys(row["case"] for row in self.rows if row["case"]))
        dtypes = dict.fromkeys(short_dtype(row["dtype"]) for row in self.rows if row["dtype"])
        named = ", ".join(cases) if len(cases) <= NAMED else f"{len(cases)} models"
        return " · ".join(filter(None, (named, ", ".join(dtypes))))

    @property
    def excess(self) -> str:
        """ "4.3× bound"; "64, none allowed"; nothing where no metric was judged."""
        value, bound, ratio = (self.worst[name] for name in ("value", "bound", "ratio"))
        if ratio is None:
            return ""
        return f"{number(value)}, none allowed" if bound == 0 else f"{multiple(ratio)} bound"


def failures(frame: Frame) -> list[dict[str, Any]]:
    """All failing rows: by status, then in the specification's order, then by place."""
    return sorted((row for kind in KINDS for row in frame.of(kind, *FAILING)), key=_key)


@lru_cache(maxsize=4)  # every section of a page asks
def groups(frame: Frame) -> tuple[Group, ...]:
    """The failing rows but for VOID ones, new failures first."""
    labels, found = Labels(frame), dict[tuple[str, str, str], list[Row]]()
    for row in failures(frame):
        if row["status"] != Status.VOID:
            found.setdefault((row["status"], row["check"], labels(row)), []).append(row)
    compared = since(frame)
    new = None if compared is None else compared.new
    made = [Group(place, tuple(rows), _is_new(rows, new)) for (*_, place), rows in found.items()]
    return tuple(sorted(made, key=lambda group: group.new is False))


def _is_new(rows: Sequence[Row], new: frozenset[str] | None) -> bool | None:
    return None if new is None else any(row["id"] in new for row in rows)


def where_in_model(row: Row) -> str:
    """ "MoE layer 2, expert 5", as far as the row tells: from its map of errors, or from its reason."""
    grid = grid_of(row)
    if grid is not None and grid.worst[0] > 1:
        return f"MoE layer {-grid.worst[1]}, expert {-grid.worst[2]}"
    layer = _LAYER.search(row["reason"])
    return f"MoE layer {layer[1]}" if layer else ""


def capsule_commands(capsule: str) -> list[str]:
    """The two lines that use a failure's capsule: what it saw, and whether another build still fails it."""
    if not capsule:
        return []
    return [shlex.join(["moe-harness", "explain", capsule]), shlex.join(["moe-harness", "recheck", capsule, "--backend", "NAME"])]


def anchors(found: Sequence[Group]) -> dict[str, str]:
    """Row id -> fragment of the failures that are shown."""
    return {row["id"]: f"failure-{number}" for number, group in enumerate(found[:SHOWN], start=1) for row in group.rows}


def _key(row: Row) -> tuple[Any, ...]:
    excess = row["ratio"] if row["ratio"] is not None else -math.inf
    return (rank(row["status"]), topic_key(row["topic"]), row["check"], -excess, place_key(row), row["id"])
