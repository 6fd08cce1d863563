"""A replayed routing: loads or expert ids that a real run wrote down, in a .json or .npz file. Legend: T tokens, K top-k, E experts.

JSON: {"loads": [tokens of each expert]} or {"ids": [[the K experts of a token], ...]}; npz: an array of the same name.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moe_harness.bench.loads import apportion, place
from moe_harness.implementations.interface import Unsupported


@dataclass(frozen=True)
class RoutingTrace:
    """One of the two. `loads_E` is scaled to the tokens asked for; `ids_TK` is repeated from its beginning as often as needed."""

    name: str
    loads_E: np.ndarray | None = None
    ids_TK: np.ndarray | None = None

    def routing(self, tokens: int, num_experts: int, top_k: int, seed: int) -> np.ndarray:
        """ids_TK of so many tokens. Raises Unsupported where the trace is of another router."""
        if self.ids_TK is not None:
            if self.ids_TK.shape[1] != top_k or self.ids_TK.max() >= num_experts:
                raise Unsupported(f"{self.name}: ids up to {self.ids_TK.max()}, {self.ids_TK.shape[1]} a token, do not fit this router")
            return np.ascontiguousarray(np.resize(self.ids_TK, (tokens, top_k)))
        assert self.loads_E is not None
        if len(self.loads_E) != num_experts:
            raise Unsupported(f"{self.name}: loads of {len(self.loads_E)} experts, but the model has {num_experts}")
        return place(apportion(self.loads_E, tokens * top_k, tokens), tokens, seed)


def read(path: Path) -> RoutingTrace:
    """Raises ValueError that names the file and what is wrong with it."""
    try:
        found = _arrays(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: no trace: {error}") from error
    if len(found) != 1:
        raise ValueError(f"{path}: expected either `loads` or `ids`, found {', '.join(found) or 'neither'}")
    ((kind, array),) = found.items()
    rank = 1 if kind == "loads" else 2
    if array.ndim != rank or not array.size or not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise ValueError(f"{path}: `{kind}` must be whole numbers from 0 on in {rank} dimension{'s' * (rank - 1)}")
    if kind == "loads":
        if not array.any():
            raise ValueError(f"{path}: all loads are zero")
        return RoutingTrace(path.name, loads_E=array.astype(np.int64))
    if (np.diff(np.sort(array, axis=-1), axis=-1) == 0).any():
        raise ValueError(f"{path}: a token has an expert twice")
    return RoutingTrace(path.name, ids_TK=array.astype(np.int64))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Whichever of `loads` and `ids` the file holds."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in ("loads", "ids") if name in held}
    raw = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    return {name: np.array(raw[name]) for name in ("loads", "ids") if name in raw}
