"""What a comparison looks at: a frame with each benchmark's canary, and the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from moe_harness.records.frame import Frame, load_frame
from moe_harness.records.lines import of_type, run_id


@dataclass(frozen=True)
class Evidence:
    """One run, or several merged. `pairs`: records of type `pair`."""

    frame: Frame
    pairs: tuple[dict[str, Any], ...] = ()


def load(directories: Sequence[Path]) -> Evidence:
    """Raises RecordError for what cannot be read, ValueError for no directory or one given twice."""
    frame = load_frame(directories)
    pairs = [record for directory in directories for record in of_type(directory, "pair")]
    return Evidence(_with_canary(frame, directories), tuple(pairs))


def _with_canary(frame: Frame, directories: Sequence[Path]) -> Frame:
    """A column `canary`, None where a benchmark had none or the row is a check."""
    if "canary" in frame.rows.columns:
        return frame
    found: dict[tuple[str, str], Any] = {}
    for directory in directories:
        name = run_id(directory)
        found |= {(name, str(record.get("node"))): record.get("canary") for record in of_type(directory, "bench")}
    places = zip(frame.rows["run"], frame.rows["node"], strict=True)
    canaries = pd.Series([found.get(place) for place in places], dtype=object, index=frame.rows.index)
    return replace(frame, rows=frame.rows.assign(canary=canaries))
