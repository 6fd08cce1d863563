"""`--budget 45m`: the most telling checks first, and what does not fit is not started: planned without a record, so that the report says
INCOMPLETE (exit code 4) and names each.

Telling: which checks kill the most of the catalogue's wrong implementations, each counted once (greedy set cover). The first tier is the
shortest list of checks that between them kill half of it, the second kills the rest, the third holds what no fault is named for. Within a
tier the order stays what it was, so that loaded models are kept. Each of xdist's workers begins with a contiguous share, so each share has
its part of every tier. A check that has begun may end, in each process, if it does so within OVERRUN_S; then the command ends pytest and
all under it (run/launch.py), whatever a backend hangs in.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

NAME = "moe_harness_budget"
OVERRUN_S = 10.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smh]?)")


def seconds(text: str) -> float:
    """45m, 1h30m, 90s or 90. Raises ValueError for anything else."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration: 45m, 1h30m, 90s")
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)


def tiers(kills: Mapping[str, frozenset[str]]) -> dict[str, int]:
    """Check -> 0 or 1. `kills`: fault -> the checks that it must die by. Greedy set cover, ties by name: the same catalogue gives the same
    tiers. Source of the bound on its length: Chvatal, A greedy heuristic for the set-covering problem, 1979."""
    found: dict[str, int] = {}
    left = dict(kills)
    while left:
        counts: dict[str, int] = {}
        for check in (check for checks in left.values() for check in checks):
            counts[check] = counts.get(check, 0) + 1
        best = min(counts, key=lambda check: (-counts[check], check))
        found[best] = 0 if 2 * len(left) > len(kills) else 1
        left = {fault: checks for fault, checks in left.items() if best not in checks}
    return {check: found.get(check, 1) for checks in kills.values() for check in sorted(checks)}


def catalogue() -> dict[str, frozenset[str]]:
    """The catalogue's faults that a check must kill."""
    from moe_harness.mutants.catalogue import FAULTS

    return {fault.id: frozenset(fault.dies_by) for fault in FAULTS if fault.dies_by}


class Budget:
    """A pytest plug-in of one process. `limit`: seconds from now; `own`: whether an item's path is ours; `given`: a worker's input."""

    def __init__(self, limit: float, own: Any, given: Mapping[str, Any]):
        self.deadline: float = given.get("moe_deadline", time.time() + limit)
        self._shares: int = given.get("workercount", 1)
        self._own, self.left_out = own, 0

    @pytest.hookimpl(trylast=True)  # after pytest has grouped items by their subjects
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = ordered(items, self._shares)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """True, which pytest takes for done, once the time is up."""
        if not self._own(item.path) or time.time() < self.deadline:
            return None
        self.left_out += 1
        return True

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """xdist: a worker starts later, and ends with the others."""
        node.workerinput["moe_deadline"] = self.deadline

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.left_out += getattr(node, "workeroutput", {}).get("moe_left_out", 0)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """pytest by itself must not look green; the records' own `end` was written before."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["moe_left_out"] = self.left_out
        if self.left_out and not session.exitstatus:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.left_out:
            terminalreporter.write_line(f"budget: {self.left_out} not started")


def ordered(items: Sequence[pytest.Item], shares: int = 1) -> list[pytest.Item]:
    """By tier within each of so many equal shares; stable. Benchmarks, which kill no fault, keep their order."""
    ranks = tiers(catalogue())
    members = [[item for item in items if ranks.get(_clause(item), 2) == tier] for tier in range(3)]
    return [item for share in range(shares) for tier in members for item in _share(tier, share, shares)]


def _share(items: Sequence[pytest.Item], share: int, shares: int) -> Sequence[pytest.Item]:
    return items[len(items) * share // shares : len(items) * (share + 1) // shares]


def _clause(item: pytest.Item) -> str:
    marker = item.get_closest_marker("clause")
    return str(marker.args[0]) if marker else ""


def install(config: pytest.Config, text: str | None, own: Any) -> None:
    """Registers the plug-in where a budget was asked for. UsageError for a text that is no duration."""
    if not text:
        return
    try:
        limit = seconds(text)
    except ValueError as error:
        raise pytest.UsageError(f"--budget {error}") from error
    config.pluginmanager.register(Budget(limit, own, getattr(config, "workerinput", {})), NAME)
