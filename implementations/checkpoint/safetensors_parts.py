"""Writes a safetensors file part by part, in several threads: what stands where is known before anything is read. A thread holds one part
in memory; numpy and the system let the others run while it copies."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Callable, Iterable, Mapping, Tuple

import numpy as np

from moe_harness.implementations.checkpoint.safetensors_writer import NAMES, PREFIX

THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Entry:
    """A tensor of the file."""

    dtype: np.dtype
    shape: Tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Part:
    """What `make` gives, `size` bytes, stands `begin` bytes behind the beginning of the tensor `name`."""

    name: str
    begin: int
    size: int
    make: Callable[[], np.ndarray]


def write_parts(path: Path, entries: Mapping[str, Entry], parts: Iterable[Part], metadata: Mapping[str, str] | None = None) -> None:
    """The largest parts first, so that no thread is left with one at the end; zeros where no part is. Raises KeyError for a dtype that the
    format does not have, and what a part raises."""
    ends = dict(zip(entries, accumulate(entry.nbytes for entry in entries.values())))
    begins = {name: ends[name] - entry.nbytes for name, entry in entries.items()}
    header = _header(entries, begins, metadata or {"format": "pt"})
    with open(path, "wb") as file, ThreadPoolExecutor(THREADS) as pool:
        file.write(header)
        file.truncate(len(header) + max(ends.values(), default=0))

        def write(part: Part) -> None:
            data = np.ascontiguousarray(part.make()).reshape(-1).view(np.uint8).data
            _write_at(file.fileno(), data, len(header) + begins[part.name] + part.begin)

        try:
            list(pool.map(write, sorted(parts, key=lambda part: -part.size)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _header(entries: Mapping[str, Entry], begins: Mapping[str, int], metadata: Mapping[str, str]) -> bytes:
    told = {
        name: {"dtype": NAMES[entry.dtype.name], "shape": entry.shape, "data_offsets": (begins[name], begins[name] + entry.nbytes)}
        for name, entry in entries.items()
    }
    text = json.dumps({"__metadata__": dict(metadata), **told}).encode()
    room = -(-len(text) // 8) * 8
    return room.to_bytes(PREFIX, "little") + text.ljust(room)


def _write_at(file: int, data: memoryview, offset: int) -> None:
    """All of it: one call writes 2 GB at most."""
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
