"""Faults of tensor parallelism: RANKS ranks hold slices of a shared expert's columns, and what they add up goes wrong."""

from __future__ import annotations

import numpy as np

from moe_harness.emulator.experts import run_expert
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.seams import Seams
from moe_harness.mutants.entry import GITHUB, Fault, change

RANKS = 2
SHARED = ("qwen2_moe", "dots1")


def partial_outputs(x_TD: Array, gate_up_2FD: Array, down_DF: Array, rounding: Rounding, seams: Seams) -> list[Array]:
    """Each rank's own: its rows of gate and up, its columns of down. Their sum is the MLP."""
    shards = zip(*(np.split(part, RANKS) for part in np.split(gate_up_2FD, 2)), np.split(down_DF, RANKS, axis=1), strict=True)
    return [run_expert(x_TD, np.concatenate([gate, up]), down, rounding, seams) for gate, up, down in shards]


def not_reduced(x_TD: Array, gate_up_2FD: Array, down_DF: Array, rounding: Rounding, seams: Seams) -> Array:
    return partial_outputs(x_TD, gate_up_2FD, down_DF, rounding, seams)[0]


def reduced_twice(x_TD: Array, gate_up_2FD: Array, down_DF: Array, rounding: Rounding, seams: Seams) -> Array:
    """After the first sum every rank holds the whole; the sum of the block's outputs over ranks then adds it once per rank."""
    whole_TD = rounding(np.sum(partial_outputs(x_TD, gate_up_2FD, down_DF, rounding, seams), axis=0))
    return rounding(np.float32(RANKS) * whole_TD)


FAULTS: tuple[Fault, ...] = (
    Fault("tpuinf-3435-missing-reduce", "Partial outputs of the shared expert are not added over the ranks that hold its slices.",
          f"{GITHUB}/vllm-project/tpu-inference/pull/3435", change(shared_mlp=not_reduced), ("BLOCK-10", "BLOCK-03"), families=SHARED),
    Fault("vllm-49378-aria-double-allreduce", "The shared expert's output is added over the ranks, and again with the routed sum.",
          f"{GITHUB}/vllm-project/vllm/pull/49378", change(shared_mlp=reduced_twice), ("BLOCK-10", "BLOCK-03"), families=SHARED),
)  # fmt: skip
