"""The report says how far the judge itself was measured, and of which version the figures are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moe_harness.records.frame import Frame, load_frame
from moe_harness.records.record import Recorder
from moe_harness.report.markdown import markdown
from moe_harness.report.page import page
from moe_harness.report.trust import OF_ANOTHER, UNMEASURED, trust
from moe_harness.tests.report_samples import check, write_run

FIGURES: dict[str, Any] = {
    "version": "ab12",
    "date": "2026-11-28T01:02:03+00:00",
    "mode": "long",
    "faults": {"killed": 257, "expressed": 261, "survivors": ["tiny"]},
    "corpus": {"killed": 33, "expressed": 34, "total": 44},
    "honest": {"runs": 3000, "alarms": 0, "rate_below": 0.000998, "confidence": 0.95},
    "effects": [
        {"what": "one expert's output too large", "dtype": "float32", "says": "0.0003 %"},
        {"what": "one expert's output too large", "dtype": "bfloat16", "says": "5 %"},
        {"what": "a router that keeps too few significant bits", "dtype": "bfloat16", "says": "6 bits"},
    ],
}


def frame_of(directory: Path, *measured: dict[str, Any]) -> Frame:
    run = write_run(directory / "run", [check("ROUTE-01", "native", "mixtral", "float32")])
    with Recorder(run) as recorder:
        for fields in measured:
            recorder.write("selftest", **fields)
    return load_frame([run])


def test_the_figures_stand_beside_the_verdict_once(tmp_path: Path):
    frame = frame_of(tmp_path, *2 * [{"current": True, "figures": FIGURES}])
    (sentence,) = trust(frame)
    assert sentence == (
        "The harness measured (long self-test of 2026-11-28): 257 of 261 wrong implementations die; of 44 public bugs 34 are re-created "
        "and 33 die; 0 of 3000 runs on honest ones alarm (fewer than 0.1 % do, with 95 % confidence); the smallest errors seen: one "
        "expert's output too large, 0.0003 % in float32 and 5 % in bfloat16, a router that keeps too few significant bits, "
        "6 bits in bfloat16"
    )
    assert "257 of 261 wrong implementations die" in page(frame) and "257 of 261 wrong implementations die" in markdown(frame)


def test_stale_figures_are_called_so(tmp_path: Path):
    (sentence,) = trust(frame_of(tmp_path, {"current": False, "figures": FIGURES}))
    assert sentence.startswith(OF_ANOTHER) and "257 of 261" in sentence


@pytest.mark.parametrize(("measured", "said"), [([{"current": False, "figures": None}], [UNMEASURED]), ([], [])])
def test_without_figures_it_says_so_and_old_runs_say_nothing(tmp_path: Path, measured: list, said: list):
    assert trust(frame_of(tmp_path, *measured)) == said
