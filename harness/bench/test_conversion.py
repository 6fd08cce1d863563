"""Conversion: HF directory to the backend's own and back, file to file, held against a plain copy of the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_harness.bench.conversion import DIRECTIONS, conversion
from moe_harness.bench.measure import measure
from moe_harness.bench.timing import Timing
from moe_harness.implementations.interface import Unsupported
from moe_harness.records.status import Status
from moe_harness.suite.subject import Subject

WIDE = pytest.mark.asked("wide")


@pytest.mark.workload("conversion")
@pytest.mark.parametrize("of", ["layer", pytest.param("checkpoint", marks=WIDE)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_conversion(subject: Subject, timing: Timing, tmp_path: Path, direction: str, of: str) -> None:
    job = conversion(subject, direction, whole=of == "checkpoint", scratch=tmp_path)
    measure(timing, job.convert, job.prepare, tokens=0, work=None, direction=direction, of=of)
    if not timing.record.get("samples"):
        return
    timing.record["copy"] = job.against_copy(timing.record["samples"])
    try:
        changed = job.changes()
    except Unsupported:  # without a way back it is the gate that judges what was converted, where the model is loaded from it
        changed = ""
    if changed:
        timing.record |= {"samples": [], "status": Status.VOID, "reason": f"no number: the round trip is not bit for bit: {changed}"}
