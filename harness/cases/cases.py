"""What the suite asks about: a checkpoint in a dtype, with golden data where there are some."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from moe_harness.cases import prompts as stored
from moe_harness.cases.tensors import CanonicalTensors
from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.interface import ModelConfig, RoutingSpec
from moe_harness.oracle.model import Oracle, OracleOutput

HELDOUT = "heldout.txt"  # the bytes that no golden model was trained on; beside the folders of the golden data
SEQUENCE = 48  # tokens per row where there is no golden prompt: long enough to touch every expert of the golden models


@dataclass(frozen=True)
class Case:
    """A named HF directory. `golden`: the directory that also holds HF's logits, or None. `seed`: 0 asks about the golden prompts, any
    other about other text, and moves all else that is drawn. Equality is by path and seed, so caches can key on it."""

    name: str
    checkpoint: Path
    golden: Path | None = None
    seed: int = 0

    def seeded(self, seed: int) -> Case:
        """The same checkpoint, opened once for both, with the data of another seed."""
        if seed == self.seed:
            return self
        other = replace(self, seed=seed)
        vars(other).update(_opened=self._opened, oracle=self.oracle)  # where cached_property keeps them
        return other

    @cached_property
    def _opened(self) -> Checkpoint:
        return Checkpoint(self.checkpoint)

    @property
    def config(self) -> ModelConfig:
        return self._opened.config

    def tensor_names(self) -> list[str]:
        """Canonical names."""
        return self._opened.names()

    def tensor(self, name: str) -> np.ndarray:
        """A canonical tensor in its stored dtype."""
        return self._opened.tensor(name)

    @cached_property
    def oracle(self) -> Oracle:
        """The float64 reference on this checkpoint's weights."""
        return Oracle(self.config, CanonicalTensors(self._opened))

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        """HF's outputs: see `moe_harness.build_golden.build`. Raises FileNotFoundError where there are none."""
        if self.golden is None:
            raise FileNotFoundError(f"{self.name} has no golden data")
        return load_file(self.golden / "expected.safetensors")

    @cached_property
    def prompts(self) -> dict[stored.Key, stored.Prompts]:
        """The golden prompts by kind and dtype; empty where none were made."""
        path = self.golden and self.golden / stored.PROMPTS
        return stored.load(path) if path and path.exists() else {}

    @cached_property
    def prompts_BS(self) -> np.ndarray:
        """Token ids (B, S): the golden prompts, or as many other windows of held-out text; random ids for a user's checkpoint."""
        if self.golden is not None:
            golden_BS = self.expected["input_ids_BS"]
            return windows(self.golden.parent, golden_BS.shape, self.seed) if self.seed else golden_BS
        size = (2, min(SEQUENCE, self.config.max_position_embeddings))
        return np.random.default_rng([0, self.seed]).integers(0, self.config.vocab_size, size)

    def free_run(self, row: int) -> OracleOutput:
        """The oracle's own run of one prompt, computed once."""
        if row not in self._free_runs:
            self._free_runs[row] = self.oracle.forward(self.prompts_BS[row])
        return self._free_runs[row]

    @cached_property
    def _free_runs(self) -> dict[int, OracleOutput]:
        return {}


@dataclass(frozen=True)
class RouterCase:
    """A router by itself, of a family whose models are not described here. `spec`: a well-known model's, at its true size. `seed`: see
    `Case`."""

    name: str
    spec: RoutingSpec
    golden: None = None
    seed: int = 0

    def seeded(self, seed: int) -> RouterCase:
        return replace(self, seed=seed)


def windows(root: Path, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Byte ids (B, S) cut out of the second half of the held-out text, which no bound was calibrated on."""
    text = np.frombuffer((root / HELDOUT).read_bytes(), np.uint8)
    text = text[len(text) // 2 :]
    starts = np.random.default_rng([0, seed]).integers(0, len(text) - shape[1] + 1, shape[0])
    return np.stack([text[start : start + shape[1]] for start in starts]).astype(np.int64)


def router_cases() -> list[RouterCase]:
    """One case per routing-only family, of its first public model."""
    found = families.routing_families().values()
    return [RouterCase(family.name, family.parse(next(iter(family.public.values())))) for family in sorted(found, key=lambda f: f.name)]


@cache
def named_cases() -> dict[str, Any]:
    """The packaged golden models (`Case`) and the routers by themselves (`RouterCase`), by name."""
    found: list[Any] = [*golden_cases(), *router_cases()]
    return {case.name: case for case in found}


def golden_root() -> Path:
    """The packaged golden data (the checkout's own when installed editable)."""
    return Path(str(files("moe_harness.golden")))


def golden_cases(root: Path | None = None) -> list[Case]:
    """One case per family folder under `root` that holds a checkpoint. Raises FileNotFoundError when there is none."""
    root = root or golden_root()
    found = [Case(d.name, d / "checkpoint", d) for d in sorted(root.iterdir()) if (d / "checkpoint").is_dir()] if root.is_dir() else []
    if not found:
        raise FileNotFoundError(f"{root}: no golden data (expected <family>/checkpoint)")
    return found


def checkpoint_case(path: Path) -> Case:
    """A user's own HF directory. Raises CheckpointError if it does not open."""
    case = Case(path.resolve().name, path.resolve())
    assert case.config
    return case
