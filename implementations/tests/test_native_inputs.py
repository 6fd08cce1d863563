"""The native backend refuses what the contract forbids, says why, and changes nothing by it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from moe_harness.implementations.interface import GenerationSpec, InvalidInput, LoadSpec, PinnedRouting, Request, Unsupported
from moe_harness.implementations.native.backend import backend
from moe_harness.implementations.tests.tiny import tiny_checkpoint

pytest.importorskip("torch")

LAST = Request()


def ids(B: int, S: int) -> np.ndarray:
    return np.random.default_rng(0).integers(3, 96, (B, S))


def states(T: int, D: int = 32) -> np.ndarray:
    return np.zeros((T, D), np.float32)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(root / "mixtral", "mixtral", dtype="bfloat16", sliding_window=6)
    return root


@pytest.fixture
def one(checkpoints):
    return backend().load(str(checkpoints / "mixtral"), LoadSpec(max_batch=2, max_length=12))


def test_importing_does_not_import_torch():
    code = "import sys, moe_harness.implementations.native.backend as b; b.backend(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_broken_torch_is_a_reason_and_not_a_crash(monkeypatch, checkpoints):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch cannot be imported" in (backend().capabilities().unavailable or "")
    with pytest.raises(Unsupported, match="torch cannot be imported"):
        backend().load(str(checkpoints / "mixtral"), LoadSpec())


def test_no_variants():
    assert backend().name == "native"
    with pytest.raises(ValueError, match="no variants"):
        backend("fast")


BAD_PREFILLS = {
    "empty": (np.zeros((1, 0), np.int64), np.array([0]), LAST),
    "no rows": (np.zeros((0, 3), np.int64), np.zeros(0, np.int64), LAST),
    "id too large": (np.array([[3, 96]]), np.array([2]), LAST),
    "id at a pad": (np.array([[3, 5, 96]]), np.array([2]), LAST),
    "id negative at a left pad": (np.array([[-1, 5, 7]]), np.array([2]), Request(padding="left")),
    "id negative": (np.array([[3, -1]]), np.array([2]), LAST),
    "too long": (ids(1, 13), np.array([13]), LAST),
    "too many rows": (ids(3, 2), np.full(3, 2), LAST),
    "length zero": (ids(1, 3), np.array([0]), LAST),
    "length over S": (ids(1, 3), np.array([4]), LAST),
    "lengths of another batch": (ids(1, 3), np.array([3, 3]), LAST),
    "floats": (np.ones((1, 3)), np.array([3]), LAST),
    "one dimension": (np.ones(3, np.int64), np.array([3]), LAST),
    "padding": (ids(1, 3), np.array([3]), Request(padding="middle")),
    "logits": (ids(1, 3), np.array([3]), Request(logits="some")),
    "pinned shape": (ids(1, 3), np.array([3]), Request(pinned=PinnedRouting(np.zeros((3, 2, 2), np.int64)))),
    "pinned range": (ids(1, 3), np.array([3]), Request(pinned=PinnedRouting(np.full((3, 3, 2), 6)))),
    "pinned weights": (
        ids(1, 3),
        np.array([3]),
        Request(pinned=PinnedRouting(np.zeros((3, 3, 2), np.int64), np.zeros((3, 3, 1), np.float32))),
    ),
}


@pytest.mark.parametrize("name", list(BAD_PREFILLS))
def test_bad_prefill_changes_nothing(one, name):
    one.prefill(ids(1, 5), np.array([5]), LAST)
    with pytest.raises(InvalidInput):
        one.prefill(*BAD_PREFILLS[name])
    observed = one.decode(np.array([7]), LAST).logits_BSV
    one.reset()
    one.prefill(ids(1, 5), np.array([5]), LAST)
    assert np.array_equal(observed, one.decode(np.array([7]), LAST).logits_BSV)


def test_bad_decode_changes_nothing(one):
    with pytest.raises(InvalidInput, match="before any prefill"):
        one.decode(np.array([3]), LAST)
    one.prefill(ids(1, 11), np.array([11]), LAST)
    for bad in (np.array([96]), np.array([-1]), np.array([3, 3]), np.array([[3]]), np.array([0.5])):
        with pytest.raises(InvalidInput):
            one.decode(bad, LAST)
    one.decode(np.array([3]), LAST)
    with pytest.raises(InvalidInput, match="max_length"):
        one.decode(np.array([3]), LAST)


def test_a_chunk_of_another_batch_is_refused(one):
    one.prefill(ids(1, 3), np.array([3]), LAST)
    with pytest.raises(InvalidInput, match="the cache holds 1"):
        one.prefill(ids(2, 3), np.array([3, 3]), LAST)


@pytest.mark.parametrize(
    "bad", [(3, states(2)), (-1, states(2)), (0, states(2, 31)), (0, states(2)[0]), (0, np.zeros((2, 32), np.int64))], ids=str
)
def test_bad_probes(one, bad):
    with pytest.raises(InvalidInput):
        one.route(*bad)
    with pytest.raises(InvalidInput):
        one.moe_block(*bad)


@pytest.mark.parametrize(
    "spec",
    [
        LoadSpec(options={"fast": "true"}),
        LoadSpec(options={"pack": "yes"}),
        LoadSpec(dtype="float64"),
        LoadSpec(max_batch=0),
        LoadSpec(max_length=0),
    ],
    ids=str,
)
def test_bad_load_specs(checkpoints, spec):
    with pytest.raises(InvalidInput):
        backend().load(str(checkpoints / "mixtral"), spec)


@pytest.mark.parametrize("device", ["cuda:99", "neuron", "cpu:x"])
def test_missing_devices(checkpoints, device):
    with pytest.raises(Unsupported):
        backend().load(str(checkpoints / "mixtral"), LoadSpec(device=device))


def test_bad_generation_leaves_the_cache(one):
    one.prefill(ids(1, 5), np.array([5]), LAST)
    expected = one.decode(np.array([7]), LAST).logits_BSV
    one.reset()
    one.prefill(ids(1, 5), np.array([5]), LAST)
    rejected: list[dict[str, Any]] = [
        dict(max_new_tokens=0),
        dict(temperature=-1.0),
        dict(top_p=0.0),
        dict(top_k=-1),
        dict(max_new_tokens=9),
    ]
    for bad in rejected:
        with pytest.raises(InvalidInput):
            one.generate(ids(1, 5), np.array([5]), GenerationSpec(**{"max_new_tokens": 2, **bad}))
    assert np.array_equal(expected, one.decode(np.array([7]), LAST).logits_BSV)


def test_generation_may_fill_the_cache(one):
    """5 + 8 - 1 = 12 positions: the last new token is never cached."""
    assert len(one.generate(ids(1, 5), np.array([5]), GenerationSpec(max_new_tokens=8, eos_token_ids=()))[0]) == 8
