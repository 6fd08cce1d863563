"""Asks a kernel every case, shape by shape, and yields one line each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from moe_harness.cases.tensors import numpy_dtype
from moe_harness.implementations.common.memory import available_bytes
from moe_harness.implementations.interface import InvalidInput, ModelConfig, MoEKernel, Unsupported
from moe_harness.kernel.cases import Case, small_cases, true_cases
from moe_harness.kernel.check import Line, expect, judge
from moe_harness.kernel.weights import TRUE, Shape, Weights, drawn, palette, small_shapes, true_shape
from moe_harness.records.status import Status

HEADROOM = 1.5  # what the kernel itself and float64 products of the oracle may need, over the weights


@dataclass(frozen=True)
class Suite:
    """Which cases are asked of a layer. `small`: (D, F) instead of the usual small shape. `only`: names of the
    cases to ask, all if empty."""

    config: ModelConfig
    dtype: str
    true: bool = True
    small: tuple[int, int] | None = None
    only: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, Shape]:
        found = small_shapes(self.config, self.small)
        return {**found, TRUE: true_shape(self.config)} if self.true else found

    def cases(self) -> list[Case]:
        spec, shapes = self.config.routing, small_shapes(self.config, self.small)
        found = small_cases(shapes, spec, self.dtype) + (true_cases(true_shape(self.config), spec, self.dtype) if self.true else [])
        names = [case.name for case in found]
        if unknown := [name for name in self.only if name not in names]:
            raise InvalidInput(f"no case {unknown[0]!r}; cases: {', '.join(names)}")
        return [case for case in found if not self.only or case.name in self.only]

    def weights(self, shape: str) -> Weights:
        return palette(self.shapes[shape], self.dtype) if shape == TRUE else drawn(self.shapes[shape], self.dtype)


def asked(suite: Suite, arguments: tuple[str, ...]) -> list[Case]:
    """The cases that suit a kernel's arguments. Raises InvalidInput for one that selects experts where logits alone do not tell."""
    spec = suite.config.routing
    if "router_logits" in arguments and (spec.correction_bias or spec.num_groups > 1 or spec.scaling_factor != 1 or spec.router_bias):
        raise InvalidInput("this model's router has more than logits (bias, groups or a factor); ask for topk_ids and topk_weights")
    return [case for case in suite.cases() if set(case.needs) <= set(arguments)]


def run(kernel: MoEKernel, suite: Suite, cases: list[Case]) -> Iterator[Line]:
    """One line a case, as it ends. Cases of one shape stand together."""
    loaded, weights = "", None
    for case in cases:
        began = time.perf_counter()
        if case.shape != loaded:
            weights = None  # its memory is needed for the next ones
            loaded, weights = case.shape, suite.weights(case.shape)
            kernel.load(weights.gate_up_E2FD, weights.down_EDF)
        assert weights is not None
        line = ask(kernel, case, weights, suite.dtype)
        yield replace(line, seconds=time.perf_counter() - began)
        if "writes to w_" in line.reason:
            loaded = ""


def ask(kernel: MoEKernel, case: Case, weights: Weights, dtype: str) -> Line:
    """The case's verdict; whatever the kernel raises costs this line alone."""
    try:
        results = kernel.run(case.calls)
    except Unsupported as error:
        return Line(case.name, case.group, case.about, Status.UNSUPPORTED, str(error))
    except Exception as error:
        return Line(case.name, case.group, case.about, Status.CRASHED, _in_one_line(error))
    return judge(case, expect(case, weights, dtype), results)


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}{' ...' if len(text) > 200 else ''}" if text else type(error).__name__


def check_memory(shape: Shape, dtype: str, arrays: str) -> None:
    """Raises InvalidInput where the weights would not fit into the host's memory. A device's own is the kernel's affair."""
    size = numpy_dtype(dtype).itemsize + (4 if arrays == "numpy" else 0)
    needed, free = HEADROOM * shape.parameters * size, available_bytes()
    if free is not None and needed > free:
        raise InvalidInput(
            f"the true shape ({shape}) needs {needed / 1e9:.1f} GB of memory for its weights in {dtype} and {free / 1e9:.1f} GB are free; "
            "--no-true-shape judges at small shapes alone"
        )
