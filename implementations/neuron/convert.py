"""HF directory <-> Neuron directory, bit for bit: the same moves in both directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.checkpoint.safetensors import Entry, Part, write_parts
from moe_harness.implementations.checkpoint.writer import copy_beside, new_directory, shard_files, write_index
from moe_harness.implementations.neuron.directory import FILE, Directory, NeuronConfig, write_shard
from moe_harness.implementations.neuron.layout import Local, Move, assemble, layout, pieces
from moe_harness.implementations.neuron.mesh import Mesh

Taker = tuple[int, str, Move]


def from_hf(src: str, dst: str, tp: int, ep: int, fused: bool = True) -> None:
    """One process's file after the other."""
    with Checkpoint(src) as source, new_directory(dst) as scratch:
        for rank in range(tp * ep):
            wanted = layout(source.family, source.config, source.stored_head, Mesh(tp, ep, rank), fused)
            entries = {name: Entry(_dtype(source, local), local.shape) for name, local in wanted.items()}
            write_shard(scratch, rank, entries, _parts(source, wanted, entries), source.stored_head)
        copy_beside(source.path, scratch)
        written = NeuronConfig(tp_degree=tp, ep_degree=ep, local_ranks_size=tp * ep, fused_qkv=fused, torch_dtype=source.config.dtype)
        written.write(scratch)


def _dtype(source: Checkpoint, local: Local) -> np.dtype:
    return source.mapped(local.moves[0].source).dtype if local.moves else np.dtype(local.dtype)


def _parts(source: Checkpoint, wanted: Mapping[str, Local], entries: Mapping[str, Entry]) -> Iterator[Part]:
    for name, local in wanted.items():
        found = pieces(local)
        size = entries[name].nbytes // len(found)
        yield from (Part(name, number * size, size, partial(assemble, piece, source.mapped)) for number, piece in enumerate(found))


def to_hf(src: str, dst: str) -> None:
    """The inverse: every HF tensor is put together out of what the processes took of it."""
    with Directory(src) as source, new_directory(dst) as scratch:
        takers = _takers(source)
        wanted = {p.source: p for p in source.family.layout(source.config, source.stored_head or not source.config.tie_word_embeddings)}
        entries = {name: Entry(source.mapped(*takers[name][0][:2]).dtype, p.shape) for name, p in wanted.items()}
        sizes = {name: entry.nbytes for name, entry in entries.items()}
        files = shard_files(sizes)
        for file, names in files.items():
            parts = (Part(name, 0, sizes[name], partial(_whole, source, takers[name], entries[name])) for name in names)
            write_parts(scratch / file, {name: entries[name] for name in names}, parts)
        write_index(scratch, files, sizes)
        copy_beside(source.path, scratch)
        (scratch / FILE).unlink()


def _whole(source: Directory, takers: list[Taker], entry: Entry) -> np.ndarray:
    target = np.empty(entry.shape, entry.dtype)
    for rank, local, move in takers:
        move.back(source.mapped(rank, local), target)
    return target


def _takers(source: Directory) -> dict[str, list[Taker]]:
    """HF name -> who took what of it."""
    found: dict[str, list[Taker]] = {}
    for rank in range(source.mesh.size):
        for name, local in source.locals(rank).items():
            for move in local.moves:
                found.setdefault(move.source, []).append((rank, name, move))
    return found
