"""Faults of loading and writing that only some sources bring out: shards, tied heads, other dtypes, square shapes, dirty memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from moe_harness.emulator.honest import widen
from moe_harness.emulator.numerics import STORAGE, Array, Rounding
from moe_harness.emulator.seams import Tensors
from moe_harness.implementations.checkpoint.checkpoint import HEAD, INDEX, SINGLE, Checkpoint, parse_config, read_config
from moe_harness.implementations.checkpoint.writer import write_checkpoint
from moe_harness.implementations.interface import ModelConfig
from moe_harness.mutants.entries.conversion import TIED, swap_gate_up
from moe_harness.mutants.entry import GITHUB, Fault, change, setting

Loaded = Callable[[Tensors, ModelConfig, bool], Tensors]


def _where(fits: Callable[[str, Array], bool], change_to: Callable[[Array], Array]) -> Loaded:
    """The tensors that fit, changed."""
    return lambda tensors, config, converted: {n: change_to(t) if fits(n, t) else t for n, t in tensors.items()}


def _outside(source: Checkpoint, wanted: Callable[[str, list[str]], bool]) -> frozenset[str]:
    """Canonical tensors of which a source lies in an unwanted file, by (file, all files in order)."""
    if not (source.path / INDEX).exists():
        return frozenset()
    homes = json.loads((source.path / INDEX).read_text("utf-8"))["weight_map"]
    files = sorted(set(homes.values()))
    return frozenset(p.name for p in source.layout if not wanted(homes[p.source], files))


def first_shard_only(source: Checkpoint) -> frozenset[str]:
    return _outside(source, lambda file, files: file == files[0])


def last_shard_missing(source: Checkpoint) -> frozenset[str]:
    return _outside(source, lambda file, files: file != files[-1])


def head_of_zeros(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    return {**tensors, "lm_head.weight": np.zeros_like(tensors["embed.weight"])} if config.tie_word_embeddings else tensors


def always_tied(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    return {**tensors, "lm_head.weight": tensors["embed.weight"]}


def float16_as_bfloat16(stored: Array) -> Array:
    return widen(stored.view(STORAGE["bfloat16"]) if stored.dtype == np.float16 else stored)


def everything_in_bfloat16(stored: Array) -> Array:
    return Rounding("bfloat16")(widen(stored))


def everything_in_float16(stored: Array) -> Array:
    return Rounding("float16")(widen(stored))


def is_square(name: str, tensor: Array) -> bool:
    return tensor.ndim > 1 and tensor.shape[-1] == tensor.shape[-2]


def transposed(tensor: Array) -> Array:
    return np.ascontiguousarray(tensor.swapaxes(-1, -2))


def experts_by_columns(tensor: Array) -> Array:
    return np.ascontiguousarray(tensor.swapaxes(0, 2))


def ones(tensor: Array) -> Array:
    return np.ones_like(tensor)


def zeros(tensor: Array) -> Array:
    return np.zeros_like(tensor)


def added_to_empty(tensor: Array) -> Array:
    """Fresh pages of a large array are zero, so this often works."""
    total = np.empty_like(tensor)
    total += tensor
    return total


def correction_in_bfloat16(name: str, tensor: Array, config: ModelConfig) -> Array:
    return Rounding("bfloat16")(tensor).astype(tensor.dtype) if name.endswith("correction_bias") else tensor


def shared_gate_up_swapped(name: str, tensor: Array, config: ModelConfig) -> Array:
    return np.concatenate(np.split(tensor, 2)[::-1]) if name.endswith("shared.gate_up.weight") else tensor


def _is(*ends: str) -> Callable[[str, Array], bool]:
    return lambda name, tensor: name.endswith(ends)


SOURCES: tuple[Fault, ...] = (
    Fault("first-shard-only", "The index is not followed: what does not lie in the first shard stays zero.",
          None, change(unread=first_shard_only), ("CONV-03",), trigger="several shards"),
    Fault("last-shard-missing", "range(1, n) over shards: the last one is not read.",
          None, change(unread=last_shard_missing), ("CONV-03",), trigger="several shards"),
    Fault("tied-head-of-zeros", "A tied model's own head is created and never filled.",
          None, change(loaded=head_of_zeros), ("CONV-04",), needs=TIED),
    Fault("always-tied", "tie_word_embeddings is taken to be true.",
          None, change(loaded=always_tied), ("CONV-04", "CONV-09"), needs=setting(tie_word_embeddings=False)),
    Fault("float16-as-bfloat16", "Two-byte tensors are taken for bfloat16.",
          None, change(widen=float16_as_bfloat16), ("CONV-05",), trigger="a float16 checkpoint"),
    Fault("loaded-through-bfloat16", "A float32 checkpoint passes through bfloat16 whatever dtype is asked for.",
          None, change(widen=everything_in_bfloat16), ("CONV-05",), dtypes=("float32",), trigger="a float32 checkpoint"),
    Fault("loaded-through-float16", "A float32 checkpoint passes through float16 whatever dtype is asked for.",
          None, change(widen=everything_in_float16), ("CONV-05",), dtypes=("float32",), trigger="a float32 checkpoint"),
    Fault("vllm-23640-correction-in-bfloat16", "The correction bias is stored in bfloat16 although the checkpoint has float32.",
          f"{GITHUB}/vllm-project/vllm/pull/23640", change(pack=correction_in_bfloat16), ("CONV-01",), families=("dots1",)),
    Fault("shared-gate-up-swapped", "The shared expert's gate and up change places on the way in.",
          None, change(pack=shared_gate_up_swapped), ("CONV-01", "CONV-02"), families=("qwen2_moe", "dots1")),
)  # fmt: skip

SHAPES: tuple[Fault, ...] = (
    Fault("square-gate-up-transposed", "The orientation of gate and up is guessed from the shape: 2F = D is transposed.",
          None, change(loaded=_where(lambda n, t: n.endswith("moe.gate_up.weight") and is_square(n, t), transposed)), ("CONV-07",),
          families=("qwen3_moe", "olmoe"), trigger="2F = D"),
    Fault("square-down-transposed", "The orientation of the down projection is guessed from the shape: F = D is transposed.",
          None, change(loaded=_where(lambda n, t: n.endswith("moe.down.weight") and is_square(n, t), transposed)), ("CONV-07",),
          trigger="F = D"),
    Fault("square-key-value-transposed", "k and v are transposed where they are square, as with as many of their heads as of q's.",
          None, change(loaded=_where(lambda n, t: n.endswith(("k.weight", "v.weight")) and is_square(n, t), transposed)), ("CONV-07",),
          trigger="N P = D"),
    Fault("square-router-transposed", "The router is transposed where it is square.",
          None, change(loaded=_where(lambda n, t: n.endswith("router.weight") and is_square(n, t), transposed)), ("CONV-07",),
          trigger="E = D"),
    Fault("expert-axis-guessed", "The expert axis of the down projections is looked for by its size, from the right: E = F.",
          None, change(loaded=_where(lambda n, t: n.endswith("moe.down.weight") and len(t) == t.shape[2], experts_by_columns)),
          ("CONV-07",), families=("qwen3_moe",), trigger="E = F and F != D"),
)  # fmt: skip


def without_unknown(path: str) -> str:
    """A copy that holds what the model knows."""
    raw = read_config(Path(path))
    family, config = parse_config(raw, path)
    tensors = load_file(Path(path) / SINGLE) if (Path(path) / SINGLE).exists() else {}
    known = {p.source for p in family.layout(config, HEAD in tensors or not config.tie_word_embeddings)}
    copy = Path(path).with_name("what-is-known")
    if not tensors.keys() - known:
        return path
    if not copy.exists():
        write_checkpoint(copy, raw, {name: tensor for name, tensor in tensors.items() if name in known})
    return str(copy)


CONTENT: tuple[Fault, ...] = (
    Fault("unknown-tensors-skipped", "`if name not in parameters: continue`: a tensor of another model is dropped in silence.",
          None, change(admitted=without_unknown), ("CONV-10",)),
    Fault("written-gate-up-swapped", "to_hf writes up where gate belongs; the backend's own models are right.",
          None, change(unpack=swap_gate_up), ("CONV-08", "CONV-01")),
    Fault("attention-norm-of-ones", "The norm before attention has no weight.",
          None, change(loaded=_where(_is("attention_norm.weight"), ones)), ("CONV-09",)),
    Fault("final-norm-of-ones", "The final norm has no weight.", None, change(loaded=_where(lambda n, t: n == "norm.weight", ones)),
          ("CONV-09",)),
    Fault("key-norm-of-ones", "k_norm's weight is not loaded: q_norm's name matched first.",
          None, change(loaded=_where(_is("k_norm.weight"), ones)), ("CONV-09",), families=("qwen3_moe", "olmoe", "dots1")),
    Fault("correction-of-zeros", "e_score_correction_bias is a buffer, and buffers are not loaded.",
          None, change(loaded=_where(_is("correction_bias"), zeros)), ("CONV-02",), families=("dots1",)),
)  # fmt: skip

MEMORY: tuple[Fault, ...] = (
    Fault("experts-added-to-empty", "Experts are summed into an array that np.empty made: right while fresh pages are zero.",
          None, change(loaded=_where(_is("moe.gate_up.weight"), added_to_empty)), ("CONV-06", "MEM-01"), trigger="memory used before"),
)  # fmt: skip

FAULTS = SOURCES + SHAPES + CONTENT + MEMORY
