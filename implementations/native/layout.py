"""The native directory: canonical tensors under their canonical names, told from an HF directory by those names alone."""

from __future__ import annotations

from pathlib import Path
from typing import List, Set

from safetensors import SafetensorError, safe_open

from moe_harness.implementations.checkpoint.checkpoint import LayoutOf, hf_layout
from moe_harness.implementations.families.family import Family
from moe_harness.implementations.families.weights import Placement, identity_layout
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
