"""From a directory to transformers' module, strict before and strict after; and conversion: transformers loads a directory and saves it
again, in the dtype it was stored in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from moe_harness.implementations.checkpoint.checkpoint import CONFIG, INDEX, Checkpoint, parse_config, read_config
from moe_harness.implementations.checkpoint.writer import copy_beside, new_directory
from moe_harness.implementations.hf.model import HFModel, window
from moe_harness.implementations.hf.quiet import quiet
from moe_harness.implementations.hf.routing import router
from moe_harness.implementations.interface import (
    DTYPES,
    CheckpointError,
    InvalidInput,
    LoadSpec,
    ModelConfig,
    Router,
    RouterWeights,
    RoutingSpec,
    Unsupported,
)

ATTENTION = ("sdpa", "eager")
# What transformers raises on files or configs it refuses. Not among them: MemoryError, and errors of the device.
REFUSALS = (ValueError, TypeError, KeyError, OSError, RuntimeError, StrictDataclassError)
# ModelConfig fields that transformers' configs hold under the same name, whatever the family.
SAME_NAME = (
    "vocab_size hidden_size intermediate_size moe_intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
    "max_position_embeddings rms_norm_eps tie_word_embeddings bos_token_id pad_token_id shared_expert_intermediate_size"
).split()


def load(path: str | Path, spec: LoadSpec, kernel: str) -> HFModel:
    """A model that obeys `spec`. Raises as `HFBackend.load` says."""
    device, attention = _device(spec.device), _attention(spec)
    _check_dtype(spec)
    if spec.max_batch < 1 or spec.max_length < 1:
        raise InvalidInput(f"max_batch {spec.max_batch} and max_length {spec.max_length} must be positive")
    module, config = open_module(path, spec.dtype, attention, kernel)
    eos = _ids(module.generation_config.eos_token_id)
    # From here on only what a GenerationSpec says counts: a checkpoint may ship a repetition penalty or a sampling temperature.
    module.generation_config = GenerationConfig()
    return HFModel(module.to(device), config, spec, eos)


def open_module(path: str | Path, dtype: str, attention: str, kernel: str) -> tuple[PreTrainedModel, ModelConfig]:
    """transformers' own module on the CPU, in evaluation mode, with the config that this project reads from the same file.

    Raises CheckpointError when the directory is bad, when transformers refuses it, when it reports a tensor as missing, unexpected or
    mismatched, or when it understands the config differently.
    """
    with Checkpoint(path) as checkpoint:
        config = checkpoint.config
    kinds: dict[str, Any] = dict(dtype=getattr(torch, dtype), attn_implementation=attention, experts_implementation=kernel)
    try:
        with quiet():
            module, info = AutoModelForCausalLM.from_pretrained(str(path), local_files_only=True, output_loading_info=True, **kinds)
    except REFUSALS as error:
        raise CheckpointError(path, f"transformers refuses it: {type(error).__name__}: {error}") from error
    _check_loading(path, info)
    _check_config(Path(path) / CONFIG, module.config, config)
    return module.eval(), config


def _check_loading(path: str | Path, info: dict[str, Any]) -> None:
    problems = {kind: found for kind, found in info.items() if found}
    if problems:
        raise CheckpointError(path, "transformers reports " + "; ".join(f"{kind}: {found}" for kind, found in sorted(problems.items())))


def _check_config(path: Path, theirs: Any, ours: ModelConfig) -> None:
    """A default that transformers fills in, or a key that it ignores, would make it a reference for another model."""
    expected = {name: getattr(ours, name) for name in SAME_NAME} | _by_their_names(ours)
    read = {name: getattr(theirs, name) for name in expected if hasattr(theirs, name)}  # not every family has every field
    expected |= {"head_dim": ours.head_dim, "rope_theta": ours.rope_theta, "eos_token_ids": ours.eos_token_ids}
    expected["sliding_window"] = ours.sliding_window
    read["eos_token_ids"] = _ids(theirs.eos_token_id)
    read["head_dim"] = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    read["rope_theta"] = theirs.rope_parameters["rope_theta"]
    read["sliding_window"] = window(theirs)
    for name, value in read.items():
        if value != expected[name]:
            raise CheckpointError(path, f"transformers reads {name} as {value!r}, expected {expected[name]!r}")


def _by_their_names(ours: ModelConfig) -> dict[str, Any]:
    """Fields that some of transformers' configs have, under their names there."""
    routing, shared = ours.routing, ours.shared_expert_intermediate_size
    return {
        **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), routing.num_experts),
        **dict.fromkeys(("attention_bias", "qkv_bias"), bool(ours.attention_bias)),
        "num_experts_per_tok": routing.top_k,
        "norm_topk_prob": routing.normalize_topk,
        "n_group": routing.num_groups,
        "topk_group": routing.top_groups,
        "routed_scaling_factor": routing.scaling_factor,
        "n_shared_experts": shared // ours.moe_intermediate_size,
        "first_k_dense_replace": ours.num_hidden_layers - len(ours.moe_layers),
        "clip_qkv": None,
    }


def load_router(spec: RoutingSpec, weights: RouterWeights, load: LoadSpec) -> Router:
    """A router of transformers by itself. Raises as `HFBackend.router` says."""
    _attention(load)
    _check_dtype(load)
    return router(spec, weights, load, _device(load.device))


def _check_dtype(spec: LoadSpec) -> None:
    if spec.dtype not in DTYPES:
        raise InvalidInput(f"dtype {spec.dtype!r}; known: {', '.join(DTYPES)}")


def _device(name: str) -> torch.device:
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise Unsupported(f"device {name!r}; this backend runs on cpu, cuda and cuda:N")
    if int(index or 0) >= torch.cuda.device_count():
        raise Unsupported(f"device {name!r}: {torch.cuda.device_count()} CUDA devices are here")
    return torch.device(name)


def _attention(spec: LoadSpec) -> str:
    unknown = sorted(set(spec.options) - {"attention"})
    if unknown:
        raise InvalidInput(f"unknown option {unknown[0]!r}; known: attention ({' | '.join(ATTENTION)})")
    attention = spec.options.get("attention", ATTENTION[0])
    if attention not in ATTENTION:
        raise InvalidInput(f"option 'attention' is {attention!r}; known: {', '.join(ATTENTION)}")
    return attention


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    return () if value is None else (value,) if isinstance(value, int) else tuple(value)


def round_trip(src: str | Path, dst: str | Path, kernel: str = "eager") -> None:
    """Weights pass through transformers' module, whose experts are fused, and its `save_pretrained`, which takes them apart.

    config.json and what lies beside it are the source's, byte for byte: transformers would add its defaults, rename keys and write a
    generation_config.json that was not there. Raises CheckpointError and leaves no `dst` when the result does not open strictly.
    """
    _, config = parse_config(read_config(Path(src)), src)
    with new_directory(dst) as scratch:
        module, _ = open_module(src, config.dtype, "sdpa", kernel)
        saved = scratch / "saved"
        with quiet():
            module.save_pretrained(saved)
        for file in [*saved.glob("*.safetensors"), *saved.glob(INDEX)]:
            file.replace(scratch / file.name)
        shutil.rmtree(saved)
        copy_beside(Path(src), scratch)
        Checkpoint(scratch).close()
