"""Replayed routings: what files may say, and what is said of those that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_harness.bench.routing_trace import read
from moe_harness.bench.skew import pin
from moe_harness.implementations.interface import RoutingSpec, Unsupported


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_loads_are_scaled_to_the_tokens_asked_for(tmp_path: Path):
    trace = read(written(tmp_path / "t.json", {"loads": [600, 200, 100, 100]}))
    assert pin("trace", 10, RoutingSpec(4, 1), trace=trace).loads_E.tolist() == [6, 2, 1, 1]


def test_ids_are_replayed_in_their_order(tmp_path: Path):
    np.savez(tmp_path / "t.npz", ids=np.array([[0, 1], [2, 3], [0, 3]]))
    chosen = pin("trace", 5, RoutingSpec(4, 2), trace=read(tmp_path / "t.npz"))
    assert chosen.ids_TK.tolist() == [[0, 1], [2, 3], [0, 3], [0, 1], [2, 3]]
    assert chosen.loads_E.tolist() == [3, 2, 2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ids": [[1, 1]]}, "an expert twice"),
        ({"loads": [0, 0]}, "all loads are zero"),
        ({"loads": [0.5, 1]}, "whole numbers"),
        ({"loads": [-1, 1]}, "whole numbers"),
        ({"loads": [[1, 2]]}, "in 1 dimension"),
        ({"ids": [1, 2]}, "in 2 dimensions"),
        ({"ids": [[0, 1], [1]]}, "no trace"),
        ({"loads": [1], "ids": [[0]]}, "either"),
        ({}, "neither"),
        ([1, 2], "not a JSON object"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, content: Any, message: str):
    with pytest.raises(ValueError, match=rf"t\.json: .*{message}"):
        read(written(tmp_path / "t.json", content))


@pytest.mark.parametrize("name", ["missing.json", "missing.npz"])
def test_a_missing_file_is_said(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=f"{name}: no trace"):
        read(tmp_path / name)


def test_a_file_that_is_neither_json_nor_npz_is_said(tmp_path: Path):
    for name in ("t.json", "t.npz"):
        (tmp_path / name).write_bytes(b"\x80\x81")
        with pytest.raises(ValueError, match=f"{name}: no trace"):
            read(tmp_path / name)


def test_a_trace_of_another_router_is_a_gap(tmp_path: Path):
    loads = read(written(tmp_path / "loads.json", {"loads": [1, 2, 3]}))
    with pytest.raises(Unsupported, match=r"loads of 3 experts, but the model has 8"):
        pin("trace", 4, RoutingSpec(8, 2), trace=loads)
    ids = read(written(tmp_path / "ids.json", {"ids": [[0, 8]]}))
    with pytest.raises(Unsupported, match="do not fit"):
        pin("trace", 4, RoutingSpec(8, 2), trace=ids)
