"""HF directory <-> native directory, bit for bit: canonical tensors under their canonical names, told from an HF directory by those names
alone."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import List, Set

import numpy as np
from safetensors import SafetensorError, safe_open

from moe_harness.implementations.checkpoint.checkpoint import Checkpoint, LayoutOf, hf_layout
from moe_harness.implementations.checkpoint.writer import convert
from moe_harness.implementations.families.family import Family
from moe_harness.implementations.families.weights import Placement, identity_layout, scatter
from moe_harness.implementations.interface import ModelConfig

MARK = "embed.weight"  # in every native directory, in no HF one


def native_layout(family: Family, config: ModelConfig, stored_head: bool) -> List[Placement]:
    return identity_layout(config, stored_head)


def layout_of(path: str | Path) -> LayoutOf:
    """The layout to open `path` with. An unreadable directory counts as HF's: opening it then says what is wrong."""
    return native_layout if MARK in _names(Path(path)) else hf_layout


def _names(path: Path) -> Set[str]:
    """Tensor names of every safetensors file that can be read (headers only)."""
    names: Set[str] = set()
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as handle:
                names.update(handle.keys())
        except (SafetensorError, OSError):
            continue
    return names


def from_hf(src: str, dst: str) -> None:
    """Per-expert HF tensors -> canonical stacked tensors, under their canonical names; everything else is copied as it is."""
    with Checkpoint(src) as source:
        sizes = {name: source.bytes(name) for name in source.names()}
        convert(source, dst, (sizes, source.tensor))


def to_hf(src: str, dst: str) -> None:
    """The inverse of `from_hf`, bit for bit."""
    with Checkpoint(src, native_layout) as source:
        placements = {p.source: p for p in source.family.layout(source.config, source.stored_head)}
        sizes = {name: _share(p, source) for name, p in placements.items()}
        canonical = lru_cache(maxsize=1)(source.tensor)  # the layout goes canonical tensor by canonical tensor

        def read(name: str) -> np.ndarray:
            placement = placements[name]
            return next(array for _, array in scatter([placement], {placement.name: canonical(placement.name)}))

        convert(source, dst, (sizes, read))


def _share(placement: Placement, source: Checkpoint) -> int:
    """Bytes of one HF tensor: its share of the canonical one that holds it."""
    elements, whole = (math.prod(shape) for shape in (placement.shape, source.shape(placement.name)))
    return source.bytes(placement.name) * elements // whole
