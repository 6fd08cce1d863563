"""A capsule: an exhibit and who was judged by what."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_harness.judge.exhibit import Exhibit
from moe_harness.judge.metric import Metric

FOLDER = "capsules"
MOST_HASHED = 1 << 30  # bytes of weights whose sha256 is worth its time


@dataclass(frozen=True)
class Capsule:
    """`identity`: node, check, title, backend, case, dtype, status and reason of the record. `metrics`: what was judged. `checkpoint`:
    {sha256, path} of the weights it ran on, where there is a file. `parameters`: of a check that is asked several times."""

    identity: Mapping[str, str]
    metrics: tuple[Metric, ...]
    reproduce: str
    exhibit: Exhibit
    checkpoint: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def check(self) -> str:
        return self.identity["check"]

    @property
    def violated(self) -> list[Metric]:
        return [metric for metric in self.metrics if metric.violated]

    def file_name(self) -> str:
        """Safe on every file system, and different for different subjects."""
        words = [self.identity[name] for name in ("check", "backend", "case", "dtype")] + [str(v) for v in self.parameters.values()]
        raw = "-".join(word for word in words if word)
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", raw)[:120].strip("-.")
        changed = safe != raw
        return f"{safe}-{hashlib.sha256(raw.encode()).hexdigest()[:8]}.safetensors" if changed else f"{safe}.safetensors"


def checkpoint_facts(directory: Path | None) -> dict[str, str]:
    """The sha256 over a checkpoint's weight files in the order of their names, and where they lie."""
    if directory is None or not directory.is_dir():
        return {}
    digest, files = hashlib.sha256(), sorted(directory.glob("*.safetensors"))
    if sum(file.stat().st_size for file in files) > MOST_HASHED:
        return {"path": str(directory)}
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return {"sha256": digest.hexdigest(), "path": str(directory)}
