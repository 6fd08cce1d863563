"""The Neuron directory: config.json and what lies beside it, neuron_config.json with the fields of optimum-neuron 0.4.5 (how weights are
split and what graphs are shaped for), and one file of weights for each process.

    weights/tp{rank}_sharded_checkpoint.safetensors

A file is written part by part, and read strictly: it has exactly the tensors that the layout asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from moe_harness.implementations.checkpoint.checkpoint import CONFIG, SAFETENSORS_NAMES, parse_config, read_config, read_json
from moe_harness.implementations.checkpoint.safetensors import Entry, Part, views, write_parts
from moe_harness.implementations.checkpoint.writer import write_json
from moe_harness.implementations.families.weights import stored_dtypes
from moe_harness.implementations.interface import CheckpointError, Unsupported
from moe_harness.implementations.neuron.layout import QKV, Local, layout, unfused
from moe_harness.implementations.neuron.mesh import Mesh

FILE = "neuron_config.json"
KEY, CLASS = "_serialized_key", "NxDNeuronConfig"
HEAD_KEY = "stored_head"  # metadata: whether the checkpoint had a head of its own, which a tied one need not


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


def shard(rank: int) -> Path:
    return Path("weights") / f"tp{rank}_sharded_checkpoint.safetensors"


def is_neuron(path: str | Path) -> bool:
    return (Path(path) / FILE).is_file()


def write_shard(directory: Path, rank: int, entries: Mapping[str, Entry], parts: Iterable[Part], stored_head: bool) -> None:
    """A process's file."""
    file = directory / shard(rank)
    file.parent.mkdir(exist_ok=True)
    write_parts(file, entries, parts, {"format": "pt", HEAD_KEY: str(stored_head).lower()})


class Directory:
    """An open, validated directory. `locals(rank)`: the layout of a process; `tensor(rank, name)`: one of its tensors as stored. Use as a
    context manager. Raises CheckpointError on opening."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.neuron = NeuronConfig.read(self.path)
        self.family, self.config = parse_config(read_config(self.path), self.path / CONFIG)
        self.mesh = Mesh(self.neuron.tp_degree, self.neuron.ep_degree)
        with ExitStack() as stack:
            self._views: dict[int, Mapping[str, np.ndarray]] = {}
            self._files = [_open(self.path / shard(rank), stack) for rank in range(self.mesh.size)]
            self.stored_head = _stored_head(self._files[0], self.path / shard(0))
            for rank in range(self.mesh.size):
                self._validate(rank)
            self._stack = stack.pop_all()

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def locals(self, rank: int) -> dict[str, Local]:
        return layout(self.family, self.config, self.stored_head, Mesh(self.mesh.tp, self.mesh.ep, rank), self.neuron.fused_qkv)

    def tensor(self, rank: int, name: str) -> np.ndarray:
        try:
            found: np.ndarray = self._files[rank].get_tensor(name)
            return found
        except SafetensorError as error:
            raise CheckpointError(self.path / shard(rank), str(error), name) from error

    def mapped(self, rank: int, name: str) -> np.ndarray:
        """The same as a read-only view of the mapped file, which must stay as it is meanwhile."""
        if rank not in self._views:
            self._views[rank] = views(self.path / shard(rank))
        return self._views[rank][name]

    def fused(self, rank: int, name: str) -> np.ndarray:
        """`tensor`, with q, k and v as one, however they are stored."""
        if self.neuron.fused_qkv or QKV not in name:
            return self.tensor(rank, name)
        return np.concatenate([self.tensor(rank, name.replace(QKV, unfused(part))) for part in "qkv"])

    def _validate(self, rank: int) -> None:
        path, file, wanted = self.path / shard(rank), self._files[rank], self.locals(rank)
        for name in sorted(wanted.keys() ^ set(file.keys())):
            raise CheckpointError(path, "missing" if name in wanted else f"not part of {self.config.architecture}", name)
        for name, local in wanted.items():
            view = file.get_slice(name)
            if tuple(view.get_shape()) != local.shape:
                raise CheckpointError(path, f"shape {tuple(view.get_shape())}, {local.shape} is expected", name)
            if SAFETENSORS_NAMES.get(view.get_dtype()) not in stored_dtypes(local.canonical, self.config):
                raise CheckpointError(path, f"dtype {view.get_dtype()}, config.json says {self.config.dtype}", name)


def _open(file: Path, stack: ExitStack) -> Any:
    if not file.is_file():
        raise CheckpointError(file, "no such file")
    try:
        return stack.enter_context(safe_open(file, framework="np"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(file, f"not a whole safetensors file: {error}") from error


def _stored_head(file: Any, path: Path) -> bool:
    said = (file.metadata() or {}).get(HEAD_KEY)
    if said not in ("true", "false"):
        raise CheckpointError(path, f"metadata {HEAD_KEY!r}: true or false is expected, got {said!r}")
    return bool(said == "true")
