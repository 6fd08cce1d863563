"""Checkpoints whose every element tells where it belongs, and their bit-wise comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moe_harness.cases.tensors import numpy_dtype
from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.checkpoint import CONFIG, HEAD, Checkpoint, read_config
from moe_harness.implementations.checkpoint.writer import write_checkpoint
from moe_harness.implementations.families.family import hf_name
from moe_harness.implementations.families.weights import stored_dtypes
from moe_harness.implementations.interface import ModelConfig
from moe_harness.judge.metric import Metric

UNCOMPARED = ("transformers_version",)  # bookkeeping of the writer


def watermark(config: ModelConfig, dst: Path, stored_head: bool) -> Path:
    """Writes a checkpoint of finite values in which neighbours differ by bits and every tensor starts elsewhere."""
    family = families.family(config.family)
    tensors = {p.source: _pattern(i, p.shape, stored_dtypes(p.name, config)[0]) for i, p in enumerate(family.layout(config, stored_head))}
    if config.tie_word_embeddings and stored_head:
        tensors[HEAD] = tensors[hf_name("embed.weight")]
    write_checkpoint(dst, family.to_hf(config), tensors)
    return dst


def _pattern(index: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Normal numbers of the dtype: exponents below 1 and a mantissa that counts, so that moved, transposed or rounded elements show."""
    count = int(np.prod(shape))
    ramp = (np.arange(count, dtype=np.uint32) * 2654435761 + index * 40503).astype(np.uint32)  # Knuth's multiplicative hash
    if dtype == "float32":
        bits = (ramp & 0x807FFFFF) | 0x3E800000
        return bits.view(np.float32).reshape(shape)
    mantissa, exponent = (0x7F, 0x3E80) if dtype == "bfloat16" else (0x3FF, 0x3400)
    bits16 = ((ramp >> 12).astype(np.uint16) & (0x8000 | mantissa)) | np.uint16(exponent)
    return bits16.view(numpy_dtype(dtype)).reshape(shape)


def compare(source: Path, back: Path, lossy: tuple[str, ...]) -> list[Metric]:
    """Differences between two HF directories. A tied checkpoint's stored head may vanish only where `lossy` says so."""
    with Checkpoint(source) as ours, Checkpoint(back) as theirs:
        wanted, got = ({p.source: p for p in c.layout if p.source != HEAD or c.stored_head} for c in (ours, theirs))
        excused = {HEAD} if ours.config.tie_word_embeddings and any(HEAD in sentence for sentence in lossy) else set()
        changed = sum(int(not _same(ours.source(name), theirs.source(name))) for name in wanted.keys() & got.keys())
        return [
            Metric("tensors_missing", len(wanted.keys() - got.keys() - excused), 0),
            Metric("tensors_added", len(got.keys() - wanted.keys() - excused), 0),
            Metric("tensors_changed", changed, 0),
            Metric("config_fields_changed", len(_config_difference(source, back)), 0),
        ]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _config_difference(source: Path, back: Path) -> set[str]:
    ours, theirs = read_config(source), read_config(back)
    keys = (ours.keys() | theirs.keys()) - set(UNCOMPARED)
    return {key for key in keys if ours.get(key, CONFIG) != theirs.get(key, CONFIG)}
