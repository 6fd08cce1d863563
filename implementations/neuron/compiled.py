"""What is made of a graph: code, through torch.compile, with a clock between tracing it and making code of it; and proof that it has one
shape. What both cost is counted."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import export
from torch.utils._pytree import tree_leaves

from moe_harness.implementations.interface import Compilation, GraphProof

MOST_GRAPHS = 1 << 20  # Dynamo counts those of all models of a process together, since they are compilations of one function


class Costs:
    """Since they were last taken."""

    def __init__(self) -> None:
        self._found = Compilation()

    @contextmanager
    def exporting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.add(Compilation(exported=1, export_s=time.perf_counter() - began))

    @contextmanager
    def compiling(self, graphs: int = 1) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.add(Compilation(compiled=graphs, compile_s=time.perf_counter() - began))

    def add(self, more: Compilation) -> None:
        self._found = one_after_the_other(self._found, more)

    def take(self) -> Compilation:
        found, self._found = self._found, Compilation()
        return found


COSTS = Costs()


def one_after_the_other(*found: Compilation) -> Compilation:
    return Compilation(
        sum(each.exported for each in found),
        sum(each.export_s for each in found),
        sum(each.compiled for each in found),
        sum(each.compile_s for each in found),
        sum(each.cached for each in found),
        _together(found),
    )


def side_by_side(found: Sequence[Compilation]) -> Compilation:
    """Of the processes of a mesh, which work on parts of the same graphs at the same time."""
    slowest = max(found, key=lambda each: each.export_s + each.compile_s)
    return replace(slowest, host_operators=_together(found))


def _together(found: Sequence[Compilation]) -> dict[str, int]:
    operators: Counter[str] = Counter()
    for each in found:
        operators.update(each.host_operators)
    return dict(operators)


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


def prove(name: str, graph: nn.Module, inputs: tuple[Any, ...]) -> GraphProof:
    """Runs the graph twice; whatever state it has must not change what it computes on these inputs."""
    with torch.no_grad():
        written = graph(*inputs)
        try:
            with COSTS.exporting():
                exported = export(graph, inputs, strict=True)
        except Exception as error:  # data-dependent control flow shows as any of a dozen types
            return GraphProof(name, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        found = exported.module()(*inputs)
    dynamic = sum(_is_dynamic(node.meta.get("val")) for node in exported.graph.nodes)
    return GraphProof(name, "", dynamic, len(exported.range_constraints), _difference(found, written))


def _is_dynamic(value: Any) -> bool:
    leaves = tree_leaves(value)
    return any(isinstance(size, torch.SymInt) for leaf in leaves if isinstance(leaf, Tensor) for size in leaf.shape) or any(
        isinstance(leaf, torch.SymInt) for leaf in leaves
    )


def _difference(found: Any, written: Any) -> float:
    pairs = zip(_tensors(found), _tensors(written), strict=True)
    return max((_distance(a, b) for a, b in pairs), default=0.0)


def _distance(a: Tensor, b: Tensor) -> float:
    """inf for another shape, and where one of them is no number and the other is."""
    if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
        return math.inf
    apart = (a.double() - b.double())[a.isfinite()].abs()
    return float(apart.max()) if apart.numel() else 0.0


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
