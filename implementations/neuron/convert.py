"""HF directory <-> Neuron directory, bit for bit: the same moves in both directions."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np

from implementations.ahead import ahead, threads
from implementations.checkpoint import Checkpoint
from implementations.checkpoint_writer import copy_beside, new_directory, write_tensors
from implementations.neuron.directory import Directory, write_shard
from implementations.neuron.layout import Move, assemble, layout, pieces
from implementations.neuron.mesh import Mesh
from implementations.neuron.neuron_config import FILE, NeuronConfig


def from_hf(src: str, dst: str, tp: int, ep: int, fused: bool = True) -> None:
    """One process's file at a time; of it a tensor at a time, of a stack of experts one."""
    with Checkpoint(src) as source, new_directory(dst) as scratch:
        for rank in range(tp * ep):
            _write(source, scratch, Mesh(tp, ep, rank), fused)
        copy_beside(source.path, scratch)
        written = NeuronConfig(tp_degree=tp, ep_degree=ep, local_ranks_size=tp * ep, fused_qkv=fused, torch_dtype=source.config.dtype)
        written.write(scratch)


def _write(source: Checkpoint, scratch: Path, mesh: Mesh, fused: bool) -> None:
    wanted = layout(source.family, source.config, source.stored_head, mesh, fused)
    parts = {(name, number): piece for name, local in wanted.items() for number, piece in enumerate(pieces(local))}
    counts = Counter(name for name, _ in parts)
    with ahead(lambda part: assemble(parts[part], source.mapped), list(parts), threads()) as made:
        write_shard(scratch, mesh.rank, wanted, lambda name: (made((name, n)) for n in range(counts[name])), source.stored_head)


def to_hf(src: str, dst: str) -> None:
    """The inverse: every HF tensor is put together out of what the processes took of it."""
    with Directory(src) as source, new_directory(dst) as scratch:
        takers = _takers(source)
        wanted = {p.source: p for p in source.family.layout(source.config, source.stored_head or not source.config.tie_word_embeddings)}

        def whole(name: str) -> np.ndarray:
            target: np.ndarray | None = None
            for rank, local, move in takers[name]:
                part = source.mapped(rank, local)
                target = np.empty(wanted[name].shape, part.dtype) if target is None else target
                move.back(part, target)
            assert target is not None
            return target

        sizes = {name: math.prod(p.shape) * source.itemsize(*takers[name][0][:2]) for name, p in wanted.items()}
        with ahead(whole, list(sizes), threads()) as tensor:
            write_tensors(scratch, sizes, tensor)
        copy_beside(source.path, scratch)
        (scratch / FILE).unlink()


Taker = tuple[int, str, Move]


def _takers(source: Directory) -> dict[str, list[Taker]]:
    """HF name -> who took what of it."""
    found: dict[str, list[Taker]] = {}
    for rank in range(source.mesh.size):
        for name, local in source.locals(rank).items():
            for move in local.moves:
                found.setdefault(move.source, []).append((rank, name, move))
    return found
