"""`golden/<family>/prompts.safetensors`: the golden prompts of every dtype, and their margins.

Legend: B prompts, X sides (1 of a clear prompt, 2 of a near-tie: with the expert of rank K, and with the next one), L MoE layers,
S sequence, K top-k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

PROMPTS = "prompts.safetensors"
CLEAR, TIES = "clear", "ties"
# A float32 near-tie would have to be as close as a millionth of a logit: about one token in a million has one.
TIED_DTYPES = ("bfloat16", "float16")
Key = tuple[str, str]  # kind and dtype


@dataclass(frozen=True)
class Prompts:
    """Prompts of one kind and dtype, all of one length. `ids_BXLSK`: the experts that the oracle uses on each side. `margin_BXLS`: the
    oracle's gap between rank K and K+1 (`routing.gap`), in units of what is ranked; at a near-tie, that between its two experts and all
    others. `noise_BXLS`: by what honest rounding in the dtype may change such a gap: a margin above it is clear. `tie_B2`, `tie_margin_B`:
    (MoE layer, position) of the near-tie and the gap there; -1 and infinity in clear prompts."""

    input_ids_BS: np.ndarray
    ids_BXLSK: np.ndarray
    margin_BXLS: np.ndarray
    noise_BXLS: np.ndarray
    tie_B2: np.ndarray
    tie_margin_B: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids_BS)

    @property
    def clearance_B(self) -> np.ndarray:
        """The smallest margin over noise of each prompt: above 1, no honest implementation flips there."""
        return (self.margin_BXLS / self.noise_BXLS).min((1, 2, 3))

    @property
    def smallest_margin_B(self) -> np.ndarray:
        return self.margin_BXLS.min((1, 2, 3))

    def experts_reached(self, num_experts: int) -> np.ndarray:
        """Boolean (L, E), of all prompts and sides together."""
        return (self.ids_BXLSK[..., None] == np.arange(num_experts)).any((0, 1, 3, 4))


def stack(found: Sequence[Prompts]) -> Prompts:
    """Prompts of the same kind, dtype and length in one."""
    return Prompts(*(np.concatenate([getattr(each, field.name) for each in found]) for field in fields(Prompts)))


def save(path: Path, found: Mapping[Key, Prompts]) -> None:
    arrays = {
        f"{kind}.{dtype}.{field.name}": np.ascontiguousarray(getattr(prompts, field.name))
        for (kind, dtype), prompts in found.items()
        for field in fields(Prompts)
    }
    save_file(arrays, path)
    path.chmod(0o644)  # safetensors makes it private to its owner


def load(path: Path) -> dict[Key, Prompts]:
    """What `save` wrote. Raises FileNotFoundError."""
    arrays = load_file(path)
    keys = sorted({(kind, dtype) for kind, dtype, _ in (name.split(".") for name in arrays)})
    return {(kind, dtype): Prompts(*(arrays[f"{kind}.{dtype}.{field.name}"] for field in fields(Prompts))) for kind, dtype in keys}
