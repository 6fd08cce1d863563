"""The figures on disk: written by a self-test, and shortened for the records of every run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_harness.records.selftest_version import version

SCHEMA, FILE = 1, "selftest.json"
DIAGNOSED = ("killed", "named", "placed", "rightly_none")


def write(golden: Path, found: Mapping[str, Any]) -> Path:
    """Replaces golden/selftest.json."""
    path = golden / FILE
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", "utf-8")
    return path


def summary(golden: Path) -> dict[str, Any]:
    """The fields of the `selftest` record: the figures without their long lists, and whether they are those of this harness. Nothing but
    `current` False where there are none, or none of this schema."""
    try:
        found = json.loads((golden / FILE).read_text("utf-8"))
        assert found["schema"] == SCHEMA
    except (OSError, ValueError, KeyError, AssertionError):
        return {"current": False, "figures": None}
    faults = {name: found["faults"][name] for name in ("killed", "expressed")}
    faults["survivors"] = [survivor["fault"] for survivor in found["faults"]["survivors"]]
    honest = {name: found["honest"][name] for name in ("runs", "alarms", "rate_below", "confidence")}
    diagnosis = {dtype: {name: counts[name] for name in DIAGNOSED} for dtype, counts in found.get("diagnosis", {}).items()}
    short = {name: found[name] for name in ("version", "date", "mode", "corpus", "effects")}
    figures = short | {"faults": faults, "honest": honest, "diagnosis": diagnosis}
    return {"current": found["version"] == version(golden), "figures": figures}
