"""The subject's own directory: canonical tensors under their canonical names in safetensors, config.json and the like as they came."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.seams import Seams
from moe_harness.implementations.checkpoint.checkpoint import CONFIG, Checkpoint
from moe_harness.implementations.checkpoint.writer import convert, copy_beside, new_directory, write_json, write_tensors
from moe_harness.implementations.families.family import Family
from moe_harness.implementations.families.weights import Placement, identity_layout
from moe_harness.implementations.interface import CheckpointError, ModelConfig

MARKER, FORMAT = "FORMAT", "canonical-1\n"


def own_layout(family: Family, config: ModelConfig, stored_head: bool) -> list[Placement]:
    return identity_layout(config, stored_head)


def is_own(path: str) -> bool:
    """Whether `from_hf` wrote it. Raises CheckpointError for another version of the format."""
    marker = Path(path) / MARKER
    if marker.is_file() and marker.read_text("utf-8") != FORMAT:
        raise CheckpointError(marker, f"format {marker.read_text('utf-8').strip()!r}; {FORMAT.strip()} is supported")
    return marker.is_file()


def from_hf(src: str, dst: str, seams: Seams) -> None:
    with Checkpoint(seams.storage.admitted(src)) as source, new_directory(dst) as scratch:
        copy_beside(source.path, scratch)
        write_json(scratch / CONFIG, seams.storage.pack_config(source.raw_config))
        layout = identity_layout(source.config, source.stored_head and seams.storage.stored_head(source.config, True))
        unread = seams.storage.unread(source)
        write_tensors(scratch, _sizes(layout, source), lambda name: seams.storage.pack(name, _tensor(source, name, unread), source.config))
        (scratch / MARKER).write_text(FORMAT, encoding="utf-8")


def to_hf(src: str, dst: str, seams: Seams) -> None:
    if not is_own(src):
        raise CheckpointError(src, "not a directory that from_hf wrote")
    with Checkpoint(src, own_layout) as source:
        layout = {p.source: p for p in source.family.layout(source.config, source.stored_head)}
        convert(source, dst, (_sizes(list(layout.values()), source), _region_reader(layout, source, seams)))


def _tensor(source: Checkpoint, name: str, unread: frozenset[str]) -> Array:
    """As stored; zeros where it is left unread."""
    tensor = source.tensor(name)
    return np.zeros_like(tensor) if name in unread else tensor


def _sizes(layout: list[Placement], source: Checkpoint) -> dict[str, int]:
    """Bytes of each tensor of a layout of the checkpoint's own canonical tensors."""
    return {p.source: source.bytes(p.name) * int(np.prod(p.shape)) // int(np.prod(source.shape(p.name))) for p in layout}


def _region_reader(layout: dict[str, Placement], source: Checkpoint, seams: Seams) -> Callable[[str], Array]:
    """Reads one HF tensor; keeps the last canonical tensor, since the experts of a layer are cut out of one."""
    kept: dict[str, Array] = {}

    def read(name: str) -> Array:
        placement = layout[name]
        if placement.name not in kept:
            kept.clear()
            kept[placement.name] = seams.storage.unpack(placement.name, source.tensor(placement.name), source.config)
        return np.ascontiguousarray(kept[placement.name][placement.region]).reshape(placement.shape)

    return read


def load(path: str, rounding: Rounding, seams: Seams) -> tuple[ModelConfig, dict[str, Array]]:
    """(config, float32 tensors by canonical name, rounded to the load dtype) of an own or an HF directory. A tied head is left out.
    Correction biases stay as they are in every dtype."""
    own = is_own(path)
    path = path if own else seams.storage.admitted(path)

    def read(name: str, unread: frozenset[str]) -> Array:
        values = seams.storage.widen(_tensor(source, name, unread))
        return values if name.endswith("correction_bias") else rounding(values)

    with Checkpoint(path, own_layout) if own else Checkpoint(path) as source:
        names = [name for name in source.names() if not (name == "lm_head.weight" and source.config.tie_word_embeddings)]
        unread = seams.storage.unread(source)
        tensors = {name: read(name, unread) for name in names}
        return source.config, seams.storage.loaded(tensors, source.config, own)
