"""Backends against each other within a run (`pair` records), compared between runs: a drift of the machine cancels in such a ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_harness.records.status import Status

Pair = Mapping[str, Any]
_SAME = ("workload", "case", "dtype", "a", "b")


@dataclass(frozen=True)
class PairChange:
    """`name`: workload, case, dtype, parameters, and b against a. Verdicts are b's against a's; ratios b's time over a's."""

    name: str
    before: str
    after: str
    ratio_before: float | None
    ratio_after: float | None


def pair_changes(base: Sequence[Pair], run: Sequence[Pair]) -> list[PairChange]:
    """Pairs of both runs whose verdict is another one now. The last record of a pair counts."""
    before, after = ({_name(pair): pair for pair in pairs} for pairs in (base, run))
    found = [(name, _verdict(before[name]), _verdict(after[name])) for name in sorted(before.keys() & after.keys())]
    return [PairChange(name, old, new, before[name].get("ratio"), after[name].get("ratio")) for name, old, new in found if old != new]


def _name(pair: Pair) -> str:
    workload, case, dtype, a, b = (str(pair.get(field) or "") for field in _SAME)
    parameters = " ".join(f"{name}={value}" for name, value in sorted((pair.get("parameters") or {}).items()))
    return " ".join(filter(None, (workload, parameters, case, dtype))) + f": {b} against {a}"


def _verdict(pair: Pair) -> str:
    status = str(pair.get("status") or Status.PASS)
    return status if status != Status.PASS else str(pair.get("verdict") or "")
