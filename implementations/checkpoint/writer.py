"""Writes checkpoint directories: shards of bounded size, an index, config.json and what lies beside it, all or nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from moe_harness.implementations.checkpoint.checkpoint import CONFIG, INDEX, SINGLE, Checkpoint
from moe_harness.implementations.checkpoint.safetensors import safetensors_file
from moe_harness.implementations.interface import CheckpointError

SHARD_BYTES = 1 << 30
Sizes = Mapping[str, int]


@contextmanager
def new_directory(dst: str | Path) -> Iterator[Path]:
    """A scratch directory beside `dst` that becomes `dst` when the block succeeds and vanishes when it fails. `dst` is new or empty."""
    target = Path(dst).resolve()  # a symlink to an empty directory keeps pointing to it
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(target, "already exists; give a new or empty directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_tensors(directory: Path, sizes: Sizes, read: Callable[[str], np.ndarray], shard_bytes: int = SHARD_BYTES) -> None:
    """Writes the tensors named in `sizes` (bytes each), reading one at a time through `read`."""
    files = shard_files(sizes, shard_bytes)
    for file, names in files.items():
        with safetensors_file(directory / file, names) as put:
            for name in names:
                put(name, read(name))
    write_index(directory, files, sizes)


def shard_files(sizes: Sizes, shard_bytes: int = SHARD_BYTES) -> Dict[str, List[str]]:
    """The files, under HF's names, that tensors of so many bytes go to."""
    shards = _plan(sizes, shard_bytes)
    files = [SINGLE] if len(shards) == 1 else [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    return dict(zip(files, shards))


def write_index(directory: Path, files: Mapping[str, Sequence[str]], sizes: Sizes) -> None:
    """Which file has which tensor, where there are several."""
    if len(files) > 1:
        weight_map = {name: file for file, names in files.items() for name in names}
        write_json(directory / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})


def _plan(sizes: Sizes, shard_bytes: int) -> List[List[str]]:
    """Names in order, cut into shards of at most `shard_bytes` (a larger tensor has a shard to itself)."""
    shards: List[List[str]] = [[]]
    room = shard_bytes
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_checkpoint(
    dst: str | Path, raw_config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], shard_bytes: int = SHARD_BYTES
) -> None:
    """A whole directory from arrays in memory."""
    with new_directory(dst) as scratch:
        write_json(scratch / CONFIG, raw_config)
        write_tensors(scratch, {name: array.nbytes for name, array in tensors.items()}, tensors.__getitem__, shard_bytes)


def copy_beside(src: Path, dst: Path) -> None:
    """Copies config.json, generation_config.json, tokenizer files: everything readable that is neither weights nor an index of them."""
    for file in sorted(src.iterdir()):
        if file.is_file() and not file.name.endswith(".index.json") and file.suffix in {".json", ".txt", ".model", ".jinja", ".md"}:
            shutil.copyfile(file, dst / file.name)


def convert(source: Checkpoint, dst: str | Path, tensors: Tuple[Dict[str, int], Callable[[str], np.ndarray]]) -> None:
    """Writes `dst` with other tensors (sizes, reader) and everything else of `source` as it is."""
    with new_directory(dst) as scratch:
        copy_beside(source.path, scratch)
        write_tensors(scratch, *tensors)
