"""Conversion to the native directory and back, and loading of both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.checkpoint.writer import write_tensors
from moe_harness.implementations.interface import CheckpointError, LoadSpec, Request
from moe_harness.implementations.native.backend import backend
from moe_harness.implementations.native.convert import layout_of, native_layout
from moe_harness.implementations.tests.tiny import tiny_checkpoint

CASES = [
    ("mixtral", "bfloat16", dict(sliding_window=5)),
    ("mixtral", "float32", dict(tie_word_embeddings=True, stored_head=False)),
    ("mixtral", "float16", dict(tie_word_embeddings=True, stored_head=True)),
    ("qwen3_moe", "bfloat16", dict(attention_bias=("q", "k", "v", "o"))),
    ("qwen2_moe", "bfloat16", {}),
    ("olmoe", "float16", {}),
    ("dots1", "bfloat16", {}),
    ("qwen3_moe", "float32", dict(tie_word_embeddings=True, stored_head=False)),
]


@pytest.fixture(params=CASES, ids=str)
def source(request, tmp_path) -> Path:
    family, dtype, overrides = request.param
    tiny_checkpoint(tmp_path / "hf", family, dtype=dtype, **overrides)
    (tmp_path / "hf" / "generation_config.json").write_text('{"eos_token_id": 2}')
    return tmp_path / "hf"


def test_round_trip_is_bit_exact(source):
    native, again = source.parent / "native", source.parent / "again"
    backend().from_hf(str(source), str(native))
    backend().to_hf(str(native), str(again))
    with Checkpoint(source) as before, Checkpoint(again) as after:
        assert [p.source for p in before.layout] == [p.source for p in after.layout]
        for placement in before.layout:
            x, y = before.source(placement.source), after.source(placement.source)
            assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes()), placement.source
    for name in ("config.json", "generation_config.json"):
        assert (source / name).read_bytes() == (again / name).read_bytes()
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in source.iterdir())


def test_the_native_directory_holds_canonical_tensors(source):
    native = source.parent / "native"
    backend().from_hf(str(source), str(native))
    assert layout_of(native) is native_layout and layout_of(source) is not native_layout
    with Checkpoint(native, native_layout) as checkpoint, Checkpoint(source) as original:
        assert [p.source for p in checkpoint.layout] == original.names()
        assert all(np.array_equal(checkpoint.tensor(n), original.tensor(n)) for n in original.names())


def test_both_directories_load_alike(source):
    pytest.importorskip("torch")
    native = source.parent / "native"
    backend().from_hf(str(source), str(native))
    spec = LoadSpec(dtype="bfloat16", max_batch=1, max_length=8)
    ids = np.arange(3, 11)[None]
    outputs = [backend().load(str(path), spec).prefill(ids, np.array([8]), Request("all")).logits_BSV for path in (source, native)]
    assert np.array_equal(outputs[0], outputs[1])


def test_a_directory_of_the_other_kind_is_refused(tmp_path):
    tiny_checkpoint(tmp_path / "hf")
    backend().from_hf(str(tmp_path / "hf"), str(tmp_path / "native"))
    with pytest.raises(CheckpointError):
        backend().from_hf(str(tmp_path / "native"), str(tmp_path / "x"))
    with pytest.raises(CheckpointError):
        backend().to_hf(str(tmp_path / "hf"), str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("native", [False, True], ids=["hf", "native"])
def test_loading_is_strict(tmp_path, native):
    pytest.importorskip("torch")
    path = tmp_path / "model"
    tiny_checkpoint(tmp_path / "hf")
    if native:
        backend().from_hf(str(tmp_path / "hf"), str(path))
    else:
        path = tmp_path / "hf"
    with Checkpoint(path, layout_of(path)) as checkpoint:
        tensors = {p.source: np.array(checkpoint.source(p.source)) for p in checkpoint.layout}
    dropped = {name: array for name, array in tensors.items() if "norm" not in name}
    extra = dict(tensors, **{"model.layers.0.rotary.inv_freq": np.zeros(4, np.float32)})
    for changed in (dropped, extra):
        write_tensors(path, {name: array.nbytes for name, array in changed.items()}, changed.__getitem__)
        with pytest.raises(CheckpointError):
            backend().load(str(path), LoadSpec())


def test_a_tied_native_head_that_differs_is_refused(tmp_path):
    tiny_checkpoint(tmp_path / "hf", tie_word_embeddings=True, stored_head=True)
    backend().from_hf(str(tmp_path / "hf"), str(tmp_path / "native"))
    with Checkpoint(tmp_path / "native", native_layout) as checkpoint:
        tensors = {name: np.array(checkpoint.tensor(name)) for name in checkpoint.names()}
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    write_tensors(tmp_path / "native", {name: array.nbytes for name, array in tensors.items()}, tensors.__getitem__)
    with pytest.raises(CheckpointError, match="differs from the embedding"):
        backend().to_hf(str(tmp_path / "native"), str(tmp_path / "again"))


def test_shards(tmp_path):
    """An index over several files, in either layout."""
    pytest.importorskip("torch")
    tiny_checkpoint(tmp_path / "hf")
    backend().from_hf(str(tmp_path / "hf"), str(tmp_path / "native"))
    expected = logits(tmp_path / "native")
    with Checkpoint(tmp_path / "native", native_layout) as checkpoint:
        tensors = {name: np.array(checkpoint.tensor(name)) for name in checkpoint.names()}
    (tmp_path / "native" / "model.safetensors").unlink()
    write_tensors(tmp_path / "native", {name: array.nbytes for name, array in tensors.items()}, tensors.__getitem__, shard_bytes=4096)
    assert len(json.loads((tmp_path / "native" / "model.safetensors.index.json").read_text())["weight_map"]) == len(tensors)
    assert np.array_equal(expected, logits(tmp_path / "native"))


def logits(path: Path) -> np.ndarray:
    return (
        backend().load(str(path), LoadSpec(max_batch=1, max_length=8)).prefill(np.arange(3, 9)[None], np.array([6]), Request()).logits_BSV
    )
