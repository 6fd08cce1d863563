"""Conversion: transformers loads a directory and saves it again, in the dtype it was stored in."""

from __future__ import annotations

import shutil
from pathlib import Path

from moe_harness.implementations.checkpoint.checkpoint import INDEX, Checkpoint, parse_config, read_config
from moe_harness.implementations.checkpoint.writer import copy_beside, new_directory
from moe_harness.implementations.hf.loading import open_module
from moe_harness.implementations.hf.quiet import quiet


def round_trip(src: str | Path, dst: str | Path, kernel: str = "eager") -> None:
    """Weights pass through transformers' module, whose experts are fused, and its `save_pretrained`, which takes them apart.

    config.json and what lies beside it are the source's, byte for byte: transformers would add its defaults, rename keys and write a
    generation_config.json that was not there. Raises CheckpointError and leaves no `dst` when the result does not open strictly.
    """
    _, config = parse_config(read_config(Path(src)), src)
    with new_directory(dst) as scratch:
        module, _ = open_module(src, config.dtype, "sdpa", kernel)
        saved = scratch / "saved"
        with quiet():
            module.save_pretrained(saved)
        for file in [*saved.glob("*.safetensors"), *saved.glob(INDEX)]:
            file.replace(scratch / file.name)
        shutil.rmtree(saved)
        copy_beside(Path(src), scratch)
        Checkpoint(scratch).close()
