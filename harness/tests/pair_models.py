"""Backends to be timed in pairs: the honest numpy subject, with more work, with less of it, or going wrong while it is timed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from moe_harness.implementations.interface import LoadSpec, StepOutput
from moe_harness.mutants.catalogue import backend as honest


class Model:
    """The honest subject's model; subclasses change what a benchmark of the MoE block times."""

    def __init__(self, inner: Any):
        self.inner, self.blocks = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def prefill(self, *call: Any) -> StepOutput:
        return self.inner.prefill(*call)

    def decode(self, *call: Any) -> StepOutput:
        return self.inner.decode(*call)

    def route(self, *call: Any) -> Any:
        return self.inner.route(*call)

    def moe_block(self, *call: Any) -> np.ndarray:
        return self.inner.moe_block(*call)


class Slower(Model):
    def moe_block(self, *call: Any) -> np.ndarray:
        self.inner.moe_block(*call)
        return self.inner.moe_block(*call)


class Lazy(Model):
    """Skips half of the tokens of a large call; the gate's is small."""

    def moe_block(self, layer: int, x_TD: np.ndarray, *more: Any) -> np.ndarray:
        done = self.inner.moe_block(layer, x_TD[: len(x_TD) // 2], *more)
        return np.concatenate([done, np.zeros_like(x_TD[len(done) :])])


class Failing(Model):
    """Right until it has been timed."""

    def moe_block(self, *call: Any) -> np.ndarray:
        self.blocks += 1
        return self.inner.moe_block(*call)

    def prefill(self, *call: Any) -> StepOutput:
        out = self.inner.prefill(*call)
        return replace(out, logits_BSV=out.logits_BSV * np.float32(1.5)) if self.blocks > 10 else out


class Backend:
    def __init__(self, variant: str, model: type[Model]):
        self.name, self._model, self._inner = f"{__name__}:backend:{variant}", model, honest()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def load(self, path: str, spec: LoadSpec) -> Model:
        return self._model(self._inner.load(path, spec))


def backend(variant: str) -> Backend:
    return Backend(variant, {"slower": Slower, "lazy": Lazy, "failing": Failing}[variant])
