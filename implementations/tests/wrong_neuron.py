"""Processes of a Neuron mesh that each do one thing wrong, as a sharded model goes wrong in practice."""

from __future__ import annotations

from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from moe_harness.implementations.neuron import layers as own_layers
from moe_harness.implementations.neuron import layout as own_layout
from moe_harness.implementations.neuron import loading as own_loading
from moe_harness.implementations.neuron import moe as own_moe
from moe_harness.implementations.neuron import rank
from moe_harness.implementations.neuron.mesh import Degrees

WRONGS = ("wrong-shard", "double-reduce", "missing-reduce", "rank-offset")
layout: Any = own_layout
layers: Any = own_layers
loading: Any = own_loading
moe: Any = own_moe


def serve(wrong: str, number: int, rendezvous: str, degrees: Degrees, pipe: Connection) -> None:
    """`rank.serve`, after the change."""
    globals()[wrong.replace("-", "_")]()
    rank.serve(number, rendezvous, degrees, pipe)


def wrong_shard() -> None:
    """A process takes its own share of every expert's gate, and its neighbour's of up."""
    moves = layout._Rules._expert

    def expert(self: Any, source: Any) -> Any:
        for move in moves(self, source):
            is_up = source.name.endswith("gate_up.weight") and source.region[-1].start > 0
            yield replace(move, take=(_next(move.take[0], source.shape[0]),)) if is_up else move

    layout._Rules._expert = expert


def _next(rows: slice, size: int) -> slice:
    begin = rows.stop % size
    return slice(begin, begin + rows.stop - rows.start)


def double_reduce() -> None:
    """A block's output is summed over the processes twice."""
    once = moe.sum_all
    moe.sum_all = lambda x, mesh: once(once(x, mesh), mesh)


def missing_reduce() -> None:
    """What the processes have of attention's output is not summed."""
    layers.sum_tp = lambda x, mesh: x


def rank_offset() -> None:
    """Every process believes that it holds its neighbour's experts."""
    experts = loading.Experts
    loading.Experts = lambda gate_up, down, first, block: experts(gate_up, down, 0 if first else len(gate_up), block)
