"""neuron_config.json, with the fields of optimum-neuron 0.4.5: how a directory's weights are split and what its graphs are shaped for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from moe_harness.implementations.checkpoint.checkpoint import read_json
from moe_harness.implementations.checkpoint.writer import write_json
from moe_harness.implementations.interface import CheckpointError, Unsupported

FILE = "neuron_config.json"
KEY, CLASS = "_serialized_key", "NxDNeuronConfig"


@dataclass(frozen=True)
class NeuronConfig:
    """`local_ranks_size`: processes of one machine. `capacity_factor`: None, nothing is dropped. `torch_dtype`: as stored. `target`:
    platform that was compiled for. Names and defaults are optimum-neuron's, but `fused_qkv`, which is on here."""

    batch_size: int = 1
    capacity_factor: float | None = None
    checkpoint_id: str | None = None
    checkpoint_revision: str | None = None
    continuous_batching: bool = True
    ep_degree: int = 1
    fused_qkv: bool = True
    glu_mlp: bool = True
    local_ranks_size: int = 1
    max_batch_size: int = 1
    max_context_length: int = 1024
    max_topk: int = 256
    n_active_tokens: int = 1024
    neuronxcc_version: str | None = None
    on_device_sampling: bool = False
    optimum_neuron_version: str = "0.4.5"
    output_logits: bool = False
    pp_degree: int = 1
    sequence_length: int = 1024
    speculation_length: int = 0
    start_rank_id: int = 0
    target: str | None = None
    torch_dtype: str = "bfloat16"
    tp_degree: int = 1

    def write(self, directory: Path) -> None:
        write_json(directory / FILE, {KEY: CLASS, **asdict(self)})

    @classmethod
    def read(cls, directory: Path) -> NeuronConfig:
        """Raises CheckpointError for a field that is missing, unknown or of another type, Unsupported for what is not built here."""
        path = directory / FILE
        raw = read_json(path)
        if raw.pop(KEY, None) != CLASS:
            raise CheckpointError(path, f"{KEY} is not {CLASS!r}")
        wanted = {field.name: str(field.type) for field in fields(cls)}
        for name in sorted(wanted.keys() ^ raw.keys()):
            raise CheckpointError(path, f"{name}: {'missing' if name in wanted else 'not a field of optimum-neuron 0.4.5'}")
        for name, kind in wanted.items():
            if not any(_is(raw[name], each) for each in kind.split(" | ")):
                raise CheckpointError(path, f"{name}: {kind} is expected, got {raw[name]!r}")
        return cls(**raw).supported(path)

    def supported(self, path: Path) -> NeuronConfig:
        """Itself. Raises Unsupported."""
        for name, only in ONLY.items():
            if getattr(self, name) != only:
                raise Unsupported(f"{path}: {name} {getattr(self, name)!r}; only {only!r} is built here")
        return self


ONLY: Mapping[str, Any] = {
    "pp_degree": 1,
    "speculation_length": 0,
    "start_rank_id": 0,
    "glu_mlp": True,
    "on_device_sampling": False,
}


def _is(value: Any, kind: str) -> bool:
    if kind == "None":
        return value is None
    if kind == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value).__name__ == kind
