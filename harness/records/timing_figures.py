"""What `bench --self-test --write` left on this machine, for the records of its benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moe_harness.records.environment import environment

FILE = Path("reports") / "timing-selftest.json"


def machine() -> dict[str, Any]:
    """What must be the same for the figures to speak of this machine."""
    return {name: environment()[name] for name in ("cpu", "cores")}


def of_this_machine() -> Iterator[dict[str, Any]]:
    """The figures, or nothing where there are none or they are another machine's."""
    try:
        found = json.loads(FILE.read_text("utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(found, dict) and found.get("machine") == machine():
        yield found
