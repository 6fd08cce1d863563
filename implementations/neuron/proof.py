"""Proof that a graph has one shape: strict export succeeds, no value in it has a size that depends on data, no size had to be assumed, and
what was exported computes what was written.

Success of strict export alone proves nothing: a loop over the experts that were hit exports too, with symbolic sizes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import export
from torch.utils._pytree import tree_leaves

from moe_harness.implementations.interface import GraphProof
from moe_harness.implementations.neuron.costs import COSTS


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
