"""Checkpoint directories that must open, and be read bit for bit. The directories are written from literal HF names and shapes with
safetensors alone, so that no rule of `implementations/` is checked against itself."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from moe_harness.implementations.checkpoint.checkpoint import Checkpoint

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
SIZES = {"vocab_size": 20, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}
COMMON = {
    **SIZES, "num_experts_per_tok": 2, "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True,
}  # fmt: skip
CURRENT = {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "dtype": "float32", "transformers_version": "5.23.0"}
LEGACY = {"rope_theta": 1e6, "rope_scaling": None, "torch_dtype": "float32", "transformers_version": "4.36.0"}
MIXTRAL = {
    **COMMON, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "intermediate_size": 10, "num_local_experts": 5,
    "sliding_window": None, "router_aux_loss_coef": 0.02, "output_router_logits": False,
}  # fmt: skip
QWEN = {
    **COMMON, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "intermediate_size": 14, "moe_intermediate_size": 8,
    "head_dim": 4, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "attention_bias": False, "sliding_window": None,
    "use_sliding_window": False,
}  # fmt: skip
QWEN2 = {
    **COMMON, **CURRENT, "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "intermediate_size": 14,
    "moe_intermediate_size": 8, "shared_expert_intermediate_size": 11, "num_experts": 5, "norm_topk_prob": False, "decoder_sparse_step": 1,
    "mlp_only_layers": [1], "sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 21,
}  # fmt: skip
OLMOE = {
    **COMMON, **LEGACY, "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "intermediate_size": 8, "num_experts": 5,
    "norm_topk_prob": False, "clip_qkv": None, "attention_bias": False,
}  # fmt: skip
DOTS = {
    **COMMON, **CURRENT, "architectures": ["Dots1ForCausalLM"], "model_type": "dots1", "intermediate_size": 14, "moe_intermediate_size": 8,
    "head_dim": 4, "n_routed_experts": 5, "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    "norm_topk_prob": True, "routed_scaling_factor": 2.5, "attention_bias": False, "sliding_window": None, "scoring_func": "noaux_tc",
}  # fmt: skip
MIXTRAL_CURRENT = {**MIXTRAL, **CURRENT, "head_dim": None}
MIXTRAL_LEGACY = {**MIXTRAL, **LEGACY}
QWEN_CURRENT = {**QWEN, **CURRENT, "num_local_experts": 5}
QWEN_LEGACY = {**QWEN, **LEGACY, "num_experts": 5, "max_window_layers": 3}
Raw = dict[str, Any]
Tensors = dict[str, np.ndarray]


def dense_layers(raw: Raw) -> list[int]:
    """Written out for the configs of this file: `decoder_sparse_step` 2 leaves experts in every second layer, counted from one."""
    if raw["model_type"] == "dots1":
        return list(range(raw["first_k_dense_replace"]))
    sparse = range(raw["num_hidden_layers"]) if raw.get("decoder_sparse_step", 1) == 1 else range(1, raw["num_hidden_layers"], 2)
    return [i for i in range(raw["num_hidden_layers"]) if i not in sparse or i in raw.get("mlp_only_layers", [])]


def hf_shapes(raw: Raw) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes on disk, as the hub's checkpoints and transformers' save_pretrained have them."""
    D, V, P = raw["hidden_size"], raw["vocab_size"], raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
    q, kv = raw["num_attention_heads"] * P, raw["num_key_value_heads"] * P
    yield "model.embed_tokens.weight", (V, D)
    for i in range(raw["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield from ((layer + "input_layernorm.weight", (D,)), (layer + "post_attention_layernorm.weight", (D,)))
        for part, shape in (("q_proj", (q, D)), ("k_proj", (kv, D)), ("v_proj", (kv, D)), ("o_proj", (D, q))):
            yield f"{layer}self_attn.{part}.weight", shape
            if raw.get("attention_bias") or (raw["model_type"] == "qwen2_moe" and part != "o_proj"):
                yield f"{layer}self_attn.{part}.bias", shape[:1]
        norms = {"qwen3_moe": (P, P), "dots1": (P, P), "olmoe": (q, kv)}.get(raw["model_type"], ())
        yield from ((f"{layer}self_attn.{part}_norm.weight", (width,)) for part, width in zip("qk", norms))
        yield from ((layer + name, shape) for name, shape in ffn_shapes(raw, i))
    yield "model.norm.weight", (D,)
    if not raw["tie_word_embeddings"]:
        yield "lm_head.weight", (V, D)


def ffn_shapes(raw: Raw, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    D, mixtral = raw["hidden_size"], raw["model_type"] == "mixtral"
    if layer in dense_layers(raw):
        width = raw["intermediate_size"]
        yield from (("mlp.gate_proj.weight", (width, D)), ("mlp.up_proj.weight", (width, D)), ("mlp.down_proj.weight", (D, width)))
        return
    block, F = "block_sparse_moe" if mixtral else "mlp", raw.get("moe_intermediate_size", raw["intermediate_size"])
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    yield f"{block}.gate.weight", (5, D)
    for e in range(5):
        expert = f"{block}.experts.{e}."
        yield from ((f"{expert}{gate}.weight", (F, D)), (f"{expert}{up}.weight", (F, D)), (f"{expert}{down}.weight", (D, F)))
    shared = {"qwen2_moe": ("shared_expert", 11), "dots1": ("shared_experts", 16)}.get(raw["model_type"])
    if shared is not None:
        name, width = shared
        yield from ((f"mlp.{name}.{part}.weight", (width, D)) for part in ("gate_proj", "up_proj"))
        yield f"mlp.{name}.down_proj.weight", (D, width)
    if raw["model_type"] == "qwen2_moe":
        yield "mlp.shared_expert_gate.weight", (1, D)
    if raw["model_type"] == "dots1":
        yield "mlp.gate.e_score_correction_bias", (5,)


def random_tensors(raw: Raw, seed: int = 0) -> Tensors:
    """Random BITS: NaNs with payloads, denormals and negative zeros must survive too. Correction biases are float32 in every model."""
    rng, usual = np.random.default_rng(seed), DTYPES[raw.get("dtype") or raw["torch_dtype"]]
    tensors = {}
    for name, shape in hf_shapes(raw):
        dtype = DTYPES["float32"] if name.endswith("correction_bias") else usual
        tensors[name] = np.frombuffer(rng.bytes(dtype.itemsize * int(np.prod(shape))), dtype).reshape(shape)
    return tensors


def write_directory(path: Path, raw: Raw, tensors: Tensors, shards: int = 1) -> Path:
    """`shards` > 1: an index, and tensors dealt out in turn, so that an expert's parts lie in different files."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(raw))
    if shards == 1:
        save_file(tensors, path / SINGLE)
        return path
    files = [f"model-{k + 1:05d}-of-{shards:05d}.safetensors" for k in range(shards)]
    weight_map = {name: files[k % shards] for k, name in enumerate(tensors)}
    for file in files:
        save_file({name: tensors[name] for name, home in weight_map.items() if home == file}, path / file)
    (path / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return path


def expected_canonical(raw: Raw, hf: Tensors) -> Tensors:
    """The canonical tensors, stacked here by hand."""
    names = {"embed.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "lm_head.weight": "lm_head.weight"}
    expected = {canonical: hf[name] for canonical, name in names.items() if name in hf}
    for i in range(raw["num_hidden_layers"]):
        expected.update({f"layers.{i}.{name}": array for name, array in expected_layer(raw, hf, i)})
    return expected


def expected_layer(raw: Raw, hf: Tensors, i: int) -> Iterator[tuple[str, np.ndarray]]:
    layer = f"model.layers.{i}."
    yield "attention_norm.weight", hf[layer + "input_layernorm.weight"]
    yield "ffn_norm.weight", hf[layer + "post_attention_layernorm.weight"]
    for name in (name for name in hf if name.startswith(layer + "self_attn.")):
        yield name.removeprefix(layer).replace("self_attn.", "attention.").replace("_proj", ""), hf[name]
    if i in dense_layers(raw):
        yield "mlp.gate_up.weight", np.concatenate([hf[layer + "mlp.gate_proj.weight"], hf[layer + "mlp.up_proj.weight"]])
        yield "mlp.down.weight", hf[layer + "mlp.down_proj.weight"]
        return
    block, parts = ("block_sparse_moe", "w1 w3 w2") if raw["model_type"] == "mixtral" else ("mlp", "gate_proj up_proj down_proj")
    gate, up, down = (np.stack([hf[f"{layer}{block}.experts.{e}.{part}.weight"] for e in range(5)]) for part in parts.split())
    yield "moe.router.weight", hf[f"{layer}{block}.gate.weight"]
    yield "moe.gate_up.weight", np.concatenate([gate, up], axis=1)
    yield "moe.down.weight", down
    optional = {"gate.e_score_correction_bias": "router.correction_bias", "shared_expert_gate.weight": "shared.gate.weight"}
    optional |= {"shared_expert.down_proj.weight": "shared.down.weight", "shared_experts.down_proj.weight": "shared.down.weight"}
    yield from ((f"moe.{ours}", hf[f"{layer}mlp.{name}"]) for name, ours in optional.items() if f"{layer}mlp.{name}" in hf)
    for shared in (f"{layer}mlp.{name}" for name in ("shared_expert", "shared_experts") if f"{layer}mlp.{name}.up_proj.weight" in hf):
        yield "moe.shared.gate_up.weight", np.concatenate([hf[f"{shared}.gate_proj.weight"], hf[f"{shared}.up_proj.weight"]])


def assert_same_bits(checkpoint: Checkpoint, expected: Tensors) -> None:
    assert sorted(checkpoint.names()) == sorted(expected)
    for name, array in expected.items():
        found = checkpoint.tensor(name)
        assert (found.dtype, found.shape) == (array.dtype, array.shape) and checkpoint.shape(name) == array.shape, name
        assert found.tobytes() == array.tobytes(), name


GOOD: dict[str, tuple[Raw, int]] = {
    "mixtral current": (MIXTRAL_CURRENT, 1),
    "mixtral legacy, sharded": (MIXTRAL_LEGACY, 3),
    "qwen3_moe current, sharded": (QWEN_CURRENT, 2),
    "qwen3_moe legacy": (QWEN_LEGACY, 1),
    "qwen2_moe, sharded": (QWEN2, 2),
    "olmoe, bias": ({**OLMOE, "attention_bias": True}, 1),
    "dots1, float32 correction in bfloat16": ({**DOTS, "dtype": "bfloat16"}, 1),
    "dots1, dense only": ({**DOTS, "first_k_dense_replace": 3}, 1),
    "num_experts and num_local_experts agree": ({**QWEN_CURRENT, "num_experts": 5}, 1),
    "bfloat16": ({**QWEN_CURRENT, "dtype": "bfloat16"}, 2),
    "float16": ({**MIXTRAL_LEGACY, "torch_dtype": "float16"}, 1),
    "dense layers by mlp_only_layers": ({**QWEN_CURRENT, "mlp_only_layers": [0, 2]}, 1),
    "dense layers by decoder_sparse_step": ({**QWEN_LEGACY, "decoder_sparse_step": 2}, 2),
    "both, and no experts left": ({**QWEN_LEGACY, "decoder_sparse_step": 2, "mlp_only_layers": [1]}, 1),
    "attention bias": ({**QWEN_CURRENT, "attention_bias": True}, 1),
    "head_dim that is not hidden_size / heads": ({**MIXTRAL_CURRENT, "head_dim": 8}, 1),
    "tied, no stored head": ({**MIXTRAL_CURRENT, "tie_word_embeddings": True, "dtype": "bfloat16"}, 2),
}


@pytest.mark.parametrize("raw, shards", GOOD.values(), ids=GOOD)
def test_a_good_directory_is_read_bit_for_bit(tmp_path: Path, raw: Raw, shards: int):
    tensors = random_tensors(raw)
    with Checkpoint(write_directory(tmp_path / "m", raw, tensors, shards)) as checkpoint:
        assert_same_bits(checkpoint, expected_canonical(raw, tensors))
        assert checkpoint.raw_config == raw
        assert checkpoint.config.moe_layers == tuple(i for i in range(3) if i not in dense_layers(raw))
        assert all(checkpoint.source(name).tobytes() == array.tobytes() for name, array in tensors.items())


@pytest.mark.parametrize("stored, size", [("float32", 4), ("bfloat16", 2)])
def test_a_correction_bias_may_have_the_models_dtype(tmp_path: Path, stored: str, size: int):
    raw = {**DOTS, "dtype": "bfloat16"}
    tensors = random_tensors(raw)
    name = "model.layers.2.mlp.gate.e_score_correction_bias"
    tensors[name] = tensors[name].astype(DTYPES[stored])
    with Checkpoint(write_directory(tmp_path / "m", raw, tensors)) as checkpoint:
        assert checkpoint.tensor("layers.2.moe.router.correction_bias").tobytes() == tensors[name].tobytes()
        assert checkpoint.bytes("layers.2.moe.router.correction_bias") == 5 * size
        assert checkpoint.bytes("layers.2.moe.router.weight") == 5 * 12 * 2


@pytest.mark.parametrize("stored", [False, True], ids=["without stored head", "with stored head"])
def test_tied_embeddings(tmp_path: Path, stored: bool):
    raw = {**QWEN_CURRENT, "tie_word_embeddings": True}
    tensors = random_tensors(raw)
    if stored:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    with Checkpoint(write_directory(tmp_path / "m", raw, tensors)) as checkpoint:
        assert checkpoint.stored_head is stored and checkpoint.head_name() == "embed.weight"
        assert_same_bits(checkpoint, expected_canonical(raw, tensors))


def test_an_untied_head_is_its_own(tmp_path: Path):
    with Checkpoint(write_directory(tmp_path / "m", MIXTRAL_LEGACY, random_tensors(MIXTRAL_LEGACY))) as checkpoint:
        assert checkpoint.stored_head and checkpoint.head_name() == "lm_head.weight"


@pytest.mark.parametrize("shards", [1, 3])
def test_files_may_be_symlinks_as_in_hub_caches(tmp_path: Path, shards: int):
    tensors = random_tensors(MIXTRAL_CURRENT)
    write_directory(tmp_path / "blobs", MIXTRAL_CURRENT, tensors, shards)
    (tmp_path / "snapshot").mkdir()
    for k, file in enumerate(sorted((tmp_path / "blobs").iterdir())):
        blob = file.rename(file.with_name(f"{k:040x}"))  # a blob's name tells nothing
        (tmp_path / "snapshot" / file.name).symlink_to(Path("..") / "blobs" / blob.name)
    with Checkpoint(tmp_path / "snapshot") as checkpoint:
        assert_same_bits(checkpoint, expected_canonical(MIXTRAL_CURRENT, tensors))


def test_an_index_may_name_the_single_file(tmp_path: Path):
    tensors = random_tensors(MIXTRAL_CURRENT)
    path = write_directory(tmp_path / "m", MIXTRAL_CURRENT, tensors)
    (path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, SINGLE)}))
    with Checkpoint(path) as checkpoint:
        assert_same_bits(checkpoint, expected_canonical(MIXTRAL_CURRENT, tensors))


def test_what_lies_beside_the_weights_is_left_alone(tmp_path: Path):
    path = write_directory(tmp_path / "m", MIXTRAL_CURRENT, random_tensors(MIXTRAL_CURRENT))
    for name in ("tokenizer.json", "pytorch_model.bin", "consolidated.safetensors", "README.md"):
        (path / name).write_bytes(b"not read")
    with Checkpoint(path) as checkpoint:
        assert checkpoint.names()


def test_reading_is_streamed(tmp_path: Path):
    """Opening reads no weights; reading everything, one tensor at a time, never holds more than a few tensors."""
    raw = {**MIXTRAL_CURRENT, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 12}
    tensors = random_tensors(raw)
    total = sum(array.nbytes for array in tensors.values())
    path = write_directory(tmp_path / "m", raw, tensors, 3)
    del tensors
    tracemalloc.start()
    try:
        with Checkpoint(path) as checkpoint:
            opened = tracemalloc.get_traced_memory()[1]
            largest = max(checkpoint.tensor(name).nbytes for name in checkpoint.names())
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total > 15 * largest
    assert opened < total / 10
    # The tensor being assembled, and one source (a tenth of it) with its raw bytes.
    assert peak < opened + 1.5 * largest
