"""Faults of memory and repetition: results that depend on what was there before. All are right in a fresh process."""

from __future__ import annotations

import numpy as np

from moe_harness.emulator import experts
from moe_harness.emulator.experts import run_expert
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.seams import Seams, Tensors, changed
from moe_harness.emulator.values import ExpertJob
from moe_harness.implementations.interface import ModelConfig
from moe_harness.mutants.entry import GITHUB, Fault, change

TILE = 16


def summed_into_empty(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    """np.empty for np.zeros under a sum."""
    total_TD = np.empty((len(ids_TK), y_TKD.shape[2]), np.float32)
    total_TD += experts.combine(y_TKD, weights_TK, ids_TK, rounding)
    return total_TD


def noise_at_load(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    """Stochastic rounding from fresh entropy: about one unit in the last place of float32."""
    rng = np.random.default_rng()
    return {name: (t * (1 + rng.choice([-1e-7, 1e-7], t.shape))).astype(np.float32) for name, t in tensors.items()}


def order_of_a_set(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding, order_K: Array) -> Array:
    return experts.combine(y_TKD[:, order_K], weights_TK[:, order_K], np.broadcast_to(np.arange(len(order_K)), ids_TK.shape), rounding)


def random_order_of_slots(seams: Seams) -> Seams:
    """Outputs are added as they arrive: the order of a sum differs from call to call."""
    rng = np.random.default_rng(0)

    def combine(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
        return order_of_a_set(y_TKD, weights_TK, ids_TK, rounding, rng.permutation(ids_TK.shape[1]))

    return changed(seams, combine=combine)


def stale_workspace(seams: Seams) -> Seams:
    """Rows are gathered into a workspace in tiles of 16, and quantised with a scale over whole tiles: the last one holds old rows."""
    kept: dict[int, Array] = {}

    def run(job: ExpertJob, seams: Seams) -> Array:
        K, D = job.ids_TK.shape[1], job.x_TD.shape[1]
        y_PD = np.zeros((job.ids_TK.size, D), np.float32)
        for expert, pairs in seams.experts.dispatch(job.ids_TK, job.num_experts, job.valid_T):
            rows = -(-len(pairs) // TILE) * TILE
            if len(kept.get(D, ())) < rows:
                kept[D] = np.zeros((rows, D), np.float32)
            kept[D][: len(pairs)] = job.x_TD[pairs // K]
            scale = np.maximum(np.abs(kept[D][:rows]).max(), np.float32(1e-9)) / np.float32(1 << 22)
            x_PD = np.round(kept[D][: len(pairs)] / scale) * scale
            y_PD[pairs] = run_expert(x_PD, job.gate_up_E2FD[expert], job.down_EDF[expert], job.rounding, seams)
        return y_PD.reshape(*job.ids_TK.shape, D)

    return changed(seams, run_experts=run)


def tables_that_grow(seams: Seams) -> Seams:
    """RoPE tables as long as the longest call so far; what is computed when they grow stays in half precision."""
    longest: list[int] = []

    def tables(positions_BS: Array, config: ModelConfig, rounding: Rounding) -> tuple[Array, Array]:
        if not longest or positions_BS.shape[1] > longest[-1]:
            longest.append(positions_BS.shape[1])
        cos, sin = seams.attention.rope_tables(positions_BS, config, rounding)
        return (cos, sin) if len(longest) == 1 else (Rounding("float16")(cos), Rounding("float16")(sin))

    return changed(seams, rope_tables=tables)


FAULTS: tuple[Fault, ...] = (
    Fault("combine-into-empty", "The output buffer comes from np.empty and is added to.",
          None, change(combine=summed_into_empty), ("MEM-01",), trigger="memory used before"),
    Fault("noise-at-load", "Weights are rounded stochastically at load, from fresh entropy.",
          None, change(loaded=noise_at_load), ("DET-01",), dtypes=("float32",)),
    Fault("sum-as-they-arrive", "Experts' outputs are added in the order in which they arrive.",
          None, random_order_of_slots, ("DET-01", "DET-02"), dtypes=("float32",), families=("qwen3_moe",)),
    Fault("sglang-26133-stale-workspace", "A dynamic scale is taken over whole tiles of a workspace that is kept between calls.",
          f"{GITHUB}/sgl-project/sglang/pull/26133", stale_workspace, ("DET-02",), dtypes=("float32",)),
    Fault("tables-in-half-when-they-grow", "RoPE tables are computed anew for a longer call, in half precision, and kept.",
          None, tables_that_grow, ("DET-02",), dtypes=("float32",), trigger="a longer call in between"),
)  # fmt: skip
