"""The rows that make a verdict red, worst first, and the anchors under which the page shows them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from harness.record import FAILING
from harness.report.frame import Frame
from harness.report.order import place_key, topic_key
from harness.report.status import rank

SHOWN = 100  # on the page; the CSV and JUnit files hold all


def failures(frame: Frame) -> list[dict[str, Any]]:
    """All failing rows: by status, then in the specification's order, then by place."""
    rows = [*frame.of("check", *FAILING), *frame.of("bench", *FAILING)]
    return sorted(rows, key=_key)


def capsule_commands(capsule: str) -> list[str]:
    """The two lines that use a failure's capsule: what it saw, and whether another build still fails it."""
    if not capsule:
        return []
    return [shlex.join(["moe-harness", "explain", capsule]), shlex.join(["moe-harness", "recheck", capsule, "--backend", "NAME"])]


def anchors(frame: Frame) -> dict[str, str]:
    """Row id -> fragment of the failures that are shown."""
    return {row["id"]: f"failure-{number}" for number, row in enumerate(failures(frame)[:SHOWN], start=1)}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    excess = row["ratio"] if row["ratio"] is not None else -math.inf
    return (rank(row["status"]), topic_key(row["topic"]), row["check"], -excess, place_key(row), row["id"])
