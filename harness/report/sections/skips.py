"""What was not judged, by kind, with reasons: a green page must not hide a gap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from moe_harness.records.expected import link
from moe_harness.records.frame import Frame
from moe_harness.records.status import Status, rank
from moe_harness.report import template
from moe_harness.report.order import Labels

TITLE = "Not judged, and why"
ORDER = 60
KINDS = (Status.NOT_RUN, Status.INCONCLUSIVE, Status.KNOWN, Status.UNAVAILABLE, Status.UNSUPPORTED)
SHOWN = 60


def render(frame: Frame) -> str:
    groups = reasons(frame)
    if not groups:
        return ""
    return template.render("skips", groups=groups[:SHOWN], left_out=len(groups) - len(groups[:SHOWN]))


def reasons(frame: Frame) -> list[tuple[str, str, str, str, int, str]]:
    """(status, backend, reason, link, count, checks) by status, then falling count. A known failure has the reason and the link of its
    entry and not what was measured, which differs from check to check."""
    labels = Labels(frame)
    counts: Counter[tuple[str, str, str, str]] = Counter()
    checks: dict[tuple[str, str, str, str], set[str]] = {}
    for row in frame.records():
        if row["status"] in KINDS:
            key = (row["status"], labels(row), *_reason(row))
            counts[key] += 1
            checks.setdefault(key, set()).add(_name(row))
    ordered = sorted(counts, key=lambda key: (rank(key[0]), -counts[key], key))
    return [(*key, counts[key], _listed(sorted(checks[key]))) for key in ordered]


def _reason(row: Mapping[str, Any]) -> tuple[str, str]:
    if expected := row["expected"]:
        return f"{expected.get('reason')} (until {expected.get('expires')})", link(expected)
    return row["reason"] or "no reason given", ""


def _name(row: Mapping[str, Any]) -> str:
    return str(row["check"] or row["node"])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
