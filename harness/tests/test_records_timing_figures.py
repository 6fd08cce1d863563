"""Figures of the timing's own test go into the records of the machine that they were measured on, and of no other."""

from __future__ import annotations

import json

import pytest

from moe_harness.records import timing_figures


@pytest.mark.parametrize("text, count", [
    (json.dumps({"seen": {}, "machine": timing_figures.machine()}), 1),
    (json.dumps({"seen": {}, "machine": {"cpu": "another", "cores": 64}}), 0),
    (json.dumps({"seen": {}}), 0),
    ("not JSON", 0),
    (None, 0),
])  # fmt: skip
def test_only_this_machines_figures_are_told(text, count, tmp_path, monkeypatch):
    monkeypatch.setattr(timing_figures, "FILE", tmp_path / "figures.json")
    if text is not None:
        (tmp_path / "figures.json").write_text(text)
    assert len(list(timing_figures.of_this_machine())) == count
