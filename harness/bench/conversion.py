"""A conversion held against a plain copy of the same files, round by round in turn, on the same disk.

The files have just been written, so they are read from the page cache, and neither side waits for the disk to have them: what is compared
is work per byte, not the disk.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from moe_harness.cases.synthetic import synthesize
from moe_harness.cases.tensors import numpy_dtype
from moe_harness.implementations.families.weights import parameter_counts
from moe_harness.implementations.interface import Backend, ModelConfig, Unsupported
from moe_harness.suite.subject import Subject, Unavailable
from moe_harness.suite.watermark import compare

LARGEST = 256_000_000  # bytes of what is converted by default: some twenty rounds of it take seconds
DIRECTIONS = ("from_hf", "to_hf")


@dataclass
class Conversion:
    """`convert` writes `made` from `source`; `copy_s` has the seconds of the copy before each of them. `original`: the HF directory that
    both directions must keep, bit for bit."""

    backend: Backend
    direction: str
    original: Path
    source: Path
    scratch: Path
    copy_s: list[float] = field(default_factory=list)

    @property
    def made(self) -> Path:
        return self.scratch / "made"

    def prepare(self) -> None:
        """Clears what the last round wrote and times a copy, which is removed again."""
        copied = self.scratch / "copied"
        for target in (self.made, copied):
            shutil.rmtree(target, ignore_errors=True)
        began = time.perf_counter()
        shutil.copytree(self.source, copied)
        self.copy_s.append(time.perf_counter() - began)
        shutil.rmtree(copied)

    def convert(self) -> None:
        getattr(self.backend, self.direction)(str(self.source), str(self.made))

    def changes(self) -> str:
        """What the round trip through the last conversion changed, empty if nothing. Raises Unsupported where there is no way back."""
        back = self.made
        if self.direction == "from_hf":
            back = self.scratch / "back"
            self.backend.to_hf(str(self.made), str(back))
        wrong = [metric for metric in compare(self.original, back, self.backend.capabilities().lossy) if metric.violated]
        return ", ".join(f"{metric.name.replace('_', ' ')}: {metric.value:g}" for metric in wrong)

    def against_copy(self, samples: list[float]) -> dict[str, Any]:
        """{bytes: of the source, samples: seconds of as many copies, the last ones, which were taken in turn with these conversions, ratio:
        bytes per second of the conversion over those of the copy}."""
        copies = self.copy_s[-len(samples) :]
        return {"bytes": size_of(self.source), "samples": copies, "ratio": median(copies) / median(samples)}


def conversion(subject: Subject, direction: str, whole: bool, scratch: Path) -> Conversion:
    """Ready for its first round. Raises what `original` raises."""
    source = original(subject, whole)
    own = subject.workshop.converted(subject.backend, source) if direction == "to_hf" else source
    return Conversion(subject.backend, direction, source, own, scratch)


def size_of(directory: Path) -> int:
    """Bytes of its files."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def original(subject: Subject, whole: bool) -> Path:
    """The case's own checkpoint where it is small, or where it is asked for; else one made of a layer of its shapes. Raises Unsupported
    where that is still too large, Unavailable where the disk does not hold three of it."""
    config, own = sample(subject.config), size_of(subject.case.checkpoint)
    is_own = whole or own <= LARGEST
    size = own if is_own else numpy_dtype(config.dtype).itemsize * parameter_counts(config)[0]
    if size > LARGEST and not is_own:
        raise Unsupported(f"one layer of this model is {size} bytes, more than the {LARGEST} that are converted without --wide")
    free = shutil.disk_usage(subject.workshop.directory).free
    if 3 * size > free:
        raise Unavailable(f"converting needs {3 * size} bytes of disk, {free} are free")
    if is_own:
        return subject.case.checkpoint
    return subject.workshop.once(f"conversion-{subject.case.checkpoint}", lambda target: synthesize(config, target))


def sample(config: ModelConfig) -> ModelConfig:
    """One MoE layer of the model, with as many experts as a token uses (all of them where they form groups)."""
    spec = config.routing
    experts = spec.top_k if spec.num_groups == 1 else spec.num_experts
    return replace(config, num_hidden_layers=1, moe_layers=(0,), routing=replace(spec, num_experts=experts))
