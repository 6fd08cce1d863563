"""What it took backends to make graphs of their calls, and what their devices left to the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.metric import finite
from moe_harness.report.order import Labels, place_key
from moe_harness.report.text import counted

NAMED = 6  # operators in a sentence
SUMMED = ("exported", "export_s", "compiled", "compile_s", "cached")


@dataclass(frozen=True)
class Graphs:
    """Of one backend on one machine, all its records together. `host_operators`: (name, how often), the most frequent first."""

    backend: str
    execution: str
    exported: float
    export_s: float
    compiled: float
    compile_s: float
    cached: float
    host_operators: tuple[tuple[str, int], ...]


def graphs(frame: Frame) -> list[Graphs]:
    """Of the backends that say something about it."""
    labels, found = Labels(frame), dict[tuple[str, str], list[Mapping[str, Any]]]()
    rows = [row for row in frame.records() if isinstance(row["facts"].get("compilation"), Mapping)]
    for row in sorted(rows, key=place_key):
        found.setdefault((labels(row), row["execution"]), []).append(row["facts"]["compilation"])
    return [_graphs(*place, told) for place, told in found.items()]


def _graphs(backend: str, execution: str, told: Sequence[Mapping[str, Any]]) -> Graphs:
    sums = {name: sum(finite(each.get(name)) or 0.0 for each in told) for name in SUMMED}
    return Graphs(backend, execution, **sums, host_operators=_operators(each.get("host_operators") for each in told))


def _operators(told: Iterable[Any]) -> tuple[tuple[str, int], ...]:
    counts: Counter[str] = Counter()
    for each in told:
        if isinstance(each, Mapping):
            counts.update({str(name): int(finite(times) or 0) for name, times in each.items()})
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def host_notes(frame: Frame) -> list[str]:
    """A sentence on every backend whose device left operators to the host: it has not been judged, nor timed, on the device alone."""
    return [f"{each.backend} left {_named(each.host_operators)} to the host" for each in graphs(frame) if each.host_operators]


def _named(operators: Sequence[tuple[str, int]]) -> str:
    said = ", ".join(f"{name} ({counted(times, 'time')})" for name, times in operators[:NAMED])
    return said + (f" and {len(operators) - NAMED} more operators" if len(operators) > NAMED else "")
