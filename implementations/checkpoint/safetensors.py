"""Safetensors files: written one tensor after the other, or part by part in several threads, and read as views of the mapped file.

`safetensors.numpy.save_file` takes all tensors at once, and copies each; here no more than one, or a part for each thread, is in memory."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Sequence, Tuple

import ml_dtypes  # noqa: F401  numpy knows bfloat16 by it
import numpy as np

NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
ENTRY = 160  # bytes of the header for a tensor, besides its name: dtype, up to six dimensions, two offsets
PREFIX = 8  # bytes that hold the header's length
THREADS = min(8, os.cpu_count() or 1)
DTYPES = {code: name for name, code in NAMES.items()}


@contextmanager
def safetensors_file(
    path: Path, names: Sequence[str], metadata: Mapping[str, str] | None = None
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """What it gives takes the tensors, one call for each of `names`. Room for the header is kept in front and filled in at the end, spaces
    behind it, as the format allows. Raises KeyError for a dtype that the format does not have."""
    header: Dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    room = -(-(len(json.dumps(header)) + sum(len(json.dumps(name)) + ENTRY for name in names)) // 8) * 8
    with open(path, "wb") as file:
        file.seek(PREFIX + room)

        def put(name: str, array: np.ndarray) -> None:
            begin = file.tell() - PREFIX - room
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            header[name] = {"dtype": NAMES[array.dtype.name], "shape": array.shape, "data_offsets": (begin, begin + array.nbytes)}

        yield put
        assert header.keys() - {"__metadata__"} == set(names), "one call for each of the names"
        file.seek(0)
        file.write(room.to_bytes(PREFIX, "little") + json.dumps(header).encode().ljust(room))


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


def views(path: Path) -> Dict[str, np.ndarray]:
    """Read-only, by name. Of a file that the library has opened, which checks the header."""
    mapped = np.memmap(path, np.uint8, "r")
    start = PREFIX + int.from_bytes(mapped[:PREFIX].tobytes(), "little")
    header = json.loads(mapped[PREFIX:start].tobytes())
    header.pop("__metadata__", None)
    return {name: _view(mapped[start:], entry) for name, entry in header.items()}


def _view(data: np.ndarray, entry: Dict) -> np.ndarray:
    begin, end = entry["data_offsets"]
    view: np.ndarray = data[begin:end].view(np.dtype(DTYPES[entry["dtype"]])).reshape(entry["shape"])
    return view
