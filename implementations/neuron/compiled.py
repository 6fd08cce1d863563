"""A graph as torch.compile makes it: whole, of one shape, with a clock between tracing it and making code of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from moe_harness.implementations.interface import Compilation
from moe_harness.implementations.neuron.costs import COSTS

MOST_GRAPHS = 1 << 20  # Dynamo counts those of all models of a process together, since they are compilations of one function


class Compiled:
    """`compiler`: a backend of torch.compile. A graph break, or a shape that depends on data, is an error. What Dynamo traces between the
    beginning of a call and the compiler's is export."""

    def __init__(self, graph: nn.Module, compiler: str):
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MOST_GRAPHS
        self._compiler = torch._dynamo.lookup_backend(compiler)
        self._graph = torch.compile(graph, backend=self._compile, fullgraph=True, dynamic=False)
        self._began = 0.0

    def __call__(self, *inputs: Any) -> Any:
        self._began = time.perf_counter()
        return self._graph(*inputs)

    def _compile(self, traced: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        COSTS.add(Compilation(exported=1, export_s=time.perf_counter() - self._began))
        with COSTS.compiling():
            code: Callable[..., Any] = self._compiler(traced, inputs)
        return code
