"""HF directory <-> Neuron directory: bit for bit whatever is split how, strict, and with NxD's shapes."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.interface import CheckpointError, LoadSpec, Request, Unsupported
from moe_harness.implementations.neuron.backend import FAMILIES, backend
from moe_harness.implementations.neuron.directory import FILE, NeuronConfig, shard
from moe_harness.implementations.neuron.layout import put_turned
from moe_harness.implementations.tests.tiny import tiny_checkpoint


@settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    family=st.sampled_from(FAMILIES),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    tp=st.sampled_from([1, 2, 4]),
    ep=st.sampled_from([1, 2, 3]),
    heads=st.sampled_from([(4, 2), (6, 3), (3, 3), (8, 1)]),
    tied=st.sampled_from([None, True, False]),
    unfused=st.booleans(),
)
def test_round_trip_is_bit_exact(tmp_path_factory, family, dtype, tp, ep, heads, tied, unfused):
    """`tied`: whether a tied head is stored all the same; None: not tied."""
    root: Path = tmp_path_factory.mktemp("round")
    size = dict(hidden_size=48, num_attention_heads=heads[0], num_key_value_heads=heads[1], num_experts=6)
    tiny_checkpoint(root / "hf", family, dtype=dtype, tie_word_embeddings=tied is not None, stored_head=tied is not False, **size)
    (root / "hf" / "generation_config.json").write_text('{"eos_token_id": 2}')
    made = backend(f"tp{tp},ep{ep}{',unfused' if unfused else ''}")
    made.from_hf(str(root / "hf"), str(root / "neuron"))
    made.to_hf(str(root / "neuron"), str(root / "again"))
    with Checkpoint(root / "hf") as before, Checkpoint(root / "again") as after:
        assert [p.source for p in before.layout] == [p.source for p in after.layout]
        for placement in before.layout:
            x, y = before.source(placement.source), after.source(placement.source)
            assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes()), placement.source
    assert sorted(p.name for p in (root / "again").iterdir()) == sorted(p.name for p in (root / "hf").iterdir())
    assert (root / "hf" / "config.json").read_bytes() == (root / "again" / "config.json").read_bytes()


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """Mixtral for two processes."""
    tiny_checkpoint(tmp_path / "hf", dtype="bfloat16")
    backend("tp2").from_hf(str(tmp_path / "hf"), str(tmp_path / "neuron"))
    return tmp_path / "neuron"


def test_a_process_holds_gate_beside_up_of_its_share(converted: Path):
    """The second process of two, expert 3, as NxD's split with stride 2 leaves it."""
    mine = load_file(converted / shard(1))["layers.0.mlp.expert_mlps.mlp_op.gate_up_proj.weight"]
    with Checkpoint(converted.parent / "hf") as source:
        gate, up = (source.source(f"model.layers.0.block_sparse_moe.experts.3.{part}.weight") for part in ("w1", "w3"))
    half = len(gate) // 2
    assert mine.shape == (6, 32, 48) and np.array_equal(mine[3], np.concatenate((gate[half:].T, up[half:].T), axis=1))


@pytest.mark.parametrize("variant", [None, "unfused"])
def test_both_directories_load_alike(tmp_path: Path, variant: str | None):
    pytest.importorskip("torch")
    tiny_checkpoint(tmp_path / "hf", "qwen2_moe")
    backend(variant).from_hf(str(tmp_path / "hf"), str(tmp_path / "neuron"))
    ask = (np.arange(3, 11)[None], np.array([8]), Request("all"))
    first, second = (
        backend().load(str(tmp_path / name), LoadSpec(max_batch=1, max_length=16)).prefill(*ask).logits_BSV for name in ("hf", "neuron")
    )
    assert np.array_equal(first, second)


def test_a_directory_for_other_processes_is_refused(converted: Path):
    pytest.importorskip("torch")
    with pytest.raises(Unsupported, match="converted for tp 2 and ep 1, not 1 and 1"):
        backend().load(str(converted), LoadSpec())


def test_the_directorys_capacity_holds_unless_an_option_says_otherwise(tmp_path: Path):
    pytest.importorskip("torch")
    tiny_checkpoint(tmp_path / "hf")
    backend().from_hf(str(tmp_path / "hf"), str(tmp_path / "neuron"))
    change(tmp_path / "neuron", capacity_factor=0.5)
    ask = (np.arange(3, 19)[None], np.array([16]), Request("none", routing=True))
    dropped = []
    for options in ({}, {"capacity_factor": "3"}):  # 3: room for all
        model = backend().load(str(tmp_path / "neuron"), LoadSpec(max_batch=1, max_length=16, options=options))
        dropped.append(model.prefill(*ask).routing.dropped_LTK)
    assert dropped[0] is not None and dropped[0].any() and dropped[1] is None


@pytest.mark.parametrize("variant", ["tp5", "ep4"])
def test_sizes_that_do_not_divide_are_named(tmp_path: Path, variant: str):
    tiny_checkpoint(tmp_path / "hf")
    with pytest.raises(Unsupported, match="vocab_size 96 does not divide by tp 5|6 experts do not divide by ep 4"):
        backend(variant).from_hf(str(tmp_path / "hf"), str(tmp_path / "neuron"))
    assert not (tmp_path / "neuron").exists()


def change(path: Path, **fields: object) -> None:
    raw = json.loads((path / FILE).read_text()) | fields
    (path / FILE).write_text(json.dumps({name: value for name, value in raw.items() if value != "gone"}))


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"tp_degree": "2"}, CheckpointError, "tp_degree: int is expected, got '2'"),
        ({"tp_degree": True}, CheckpointError, "tp_degree: int is expected, got True"),
        ({"tp_degree": "gone"}, CheckpointError, "tp_degree: missing"),
        ({"sliding": 1}, CheckpointError, "sliding: not a field"),
        ({"_serialized_key": "Other"}, CheckpointError, "_serialized_key is not 'NxDNeuronConfig'"),
        ({"speculation_length": 3}, Unsupported, "speculation_length 3; only 0"),
        ({"fused_qkv": False}, CheckpointError, "'layers.0.self_attn.qkv_proj.Wqkv.weight': not part of"),
        ({"tp_degree": 4}, CheckpointError, "tp2_sharded_checkpoint.safetensors: no such file"),
    ],
    ids=str,
)
def test_neuron_config_is_read_strictly(converted: Path, fields: dict[str, object], error: type[Exception], said: str):
    change(converted, **fields)
    with pytest.raises(error, match=said):
        backend("tp2").to_hf(str(converted), str(converted.parent / "again"))
    assert not (converted.parent / "again").exists()


def test_neuron_config_has_optimums_fields(converted: Path):
    raw = json.loads((converted / FILE).read_text())
    assert len(raw) == 25 and raw["tp_degree"] == 2 and raw["torch_dtype"] == "bfloat16" and list(raw) == sorted(raw)
    assert NeuronConfig.read(converted).local_ranks_size == 2


@pytest.mark.parametrize("what", ["missing", "more", "shape", "dtype", "cut", "metadata"])
def test_weights_are_read_strictly(converted: Path, what: str):
    file = converted / shard(1)
    tensors, metadata = dict(load_file(file)), {"stored_head": "true"}
    if what == "missing":
        del tensors["norm.weight"]
    elif what == "more":
        tensors["rope.inv_freq"] = np.zeros(4, np.float32)
    elif what == "shape":
        tensors["norm.weight"] = tensors["norm.weight"][:-1]
    elif what == "dtype":
        tensors["norm.weight"] = tensors["norm.weight"].astype(np.float32)
    save_file(tensors, file, metadata=metadata)
    if what == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    if what == "metadata":
        save_file(load_file(converted / shard(0)), converted / shard(0))
    with pytest.raises(CheckpointError, match="norm.weight|rope.inv_freq|not a whole|stored_head"):
        backend("tp2").to_hf(str(converted), str(converted.parent / "again"))


@pytest.mark.parametrize("variant", [None, "tp2"])
def test_a_layer_is_never_in_memory_as_a_whole(tmp_path: Path, variant: str | None):
    """Either way: experts, of which there are many, are the most of a layer. Files are mapped, which is not memory of our own."""
    tiny_checkpoint(tmp_path / "hf", num_hidden_layers=3, num_experts=64, hidden_size=128, moe_intermediate_size=64)
    layer = 64 * 3 * 128 * 64 * 4
    made = backend(variant)
    tracemalloc.start()
    try:
        made.from_hf(str(tmp_path / "hf"), str(tmp_path / "neuron"))
        made.to_hf(str(tmp_path / "neuron"), str(tmp_path / "again"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < layer / 2, f"{peak} bytes, a layer has {layer}"


@pytest.mark.parametrize("shape", [(1, 1), (3, 1000), (2049, 129), (4100, 300)])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_a_matrix_of_any_size_is_turned(shape: tuple[int, int], dtype: str):
    """Block by block, the last ones smaller."""
    matrix = np.random.default_rng(0).integers(0, 60000, shape).astype(dtype)
    target = np.empty(shape[::-1], dtype)
    put_turned(target, matrix)
    assert np.array_equal(target, matrix.T)
