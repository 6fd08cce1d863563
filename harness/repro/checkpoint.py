"""The checkpoint of a capsule: an HF one made from it, on which a backend can be asked again, and where the weights are that it speaks of.

Legend: E experts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from moe_harness.cases.cases import golden_root
from moe_harness.cases.synthetic import synthesize
from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.checkpoint.writer import write_checkpoint
from moe_harness.implementations.families.weights import scatter
from moe_harness.implementations.interface import ModelConfig
from moe_harness.judge.exhibit import MODEL, Exhibit
from moe_harness.repro.capsule import Capsule, checkpoint_facts

VOCABULARY, POSITIONS = 272, 128


def write_model(exhibit: Exhibit, dst: Path) -> Path:
    """A directory whose weights are the exhibit's. Of a single layer, what is not in it (embedding, attention) is random and small in
    number, and experts that were left out are zeros: ids keep their meaning. Raises ValueError where the exhibit holds no weights."""
    assert exhibit.config is not None
    if not exhibit.tensors:
        raise ValueError("the capsule holds no weights")
    config = exhibit.config if exhibit.kind == MODEL else _small(exhibit.config)
    tensors = exhibit.whole
    if exhibit.kind != MODEL:
        tensors = {**_filling(config, dst.with_name(f"{dst.name}-filling")), **tensors}
    config = replace(config, dtype=str(_stored(tensors)))
    stored_head = "lm_head.weight" in tensors
    family = families.family(config.family)
    cast = {n: t if n.endswith("correction_bias") else t.astype(tensors["embed.weight"].dtype) for n, t in tensors.items()}
    write_checkpoint(dst, family.to_hf(config), dict(scatter(family.layout(config, stored_head), cast)))
    return dst


def _stored(tensors: dict[str, np.ndarray]) -> np.dtype:
    return tensors["embed.weight"].dtype


def _small(config: ModelConfig) -> ModelConfig:
    return replace(config, vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, eos_token_ids=(1,), bos_token_id=0, pad_token_id=2)


def _filling(config: ModelConfig, scratch: Path) -> dict[str, np.ndarray]:
    """Random tensors of a one-layer model."""
    with Checkpoint(synthesize(config, scratch)) as checkpoint:
        return {name: np.array(checkpoint.tensor(name)) for name in checkpoint.names()}


def golden_checkpoint(capsule: Capsule) -> Path | None:
    """The golden directory of that name, if its weights are the capsule's."""
    return _same(capsule, golden_root() / capsule.identity["case"] / "checkpoint")


def checkpoint_of(capsule: Capsule) -> Path | None:
    """The golden directory, or the one that the capsule names, whichever has the capsule's weights."""
    return golden_checkpoint(capsule) or _same(capsule, Path(capsule.checkpoint.get("path", "")))


def _same(capsule: Capsule, directory: Path) -> Path | None:
    wanted = capsule.checkpoint.get("sha256")
    return directory if wanted and directory.is_dir() and checkpoint_facts(directory).get("sha256") == wanted else None
