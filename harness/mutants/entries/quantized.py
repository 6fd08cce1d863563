"""Faults of quantised experts. The codes hold every bit of a float32 weight, so that with the right scales the model is exact: what shows
is the scales' fault alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_harness.emulator.numerics import Array
from moe_harness.emulator.seams import Tensors
from moe_harness.implementations.interface import ModelConfig
from moe_harness.mutants.entry import GITHUB, Fault, change

STEPS = 2.0**40  # codes of 41 bits, held in float64
BLOCK, TILE_ROWS, TILE_BLOCKS = 32, 128, 4


def _experts(change_weight: Callable[[Array], Array]) -> Callable[[Tensors, ModelConfig, bool], Tensors]:
    def loaded(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
        return {name: change_weight(t) if ".moe.gate_up." in name or ".moe.down." in name else t for name, t in tensors.items()}

    return loaded


def with_first_scale(weight_EOI: Array) -> Array:
    """One scale per expert, its largest weight; the first expert's is used for all."""
    scale_E11 = np.abs(weight_EOI).max(axis=(1, 2), keepdims=True).astype(np.float64)
    codes = np.round(weight_EOI / np.where(scale_E11 == 0, 1, scale_E11) * STEPS)
    return (codes / STEPS * scale_E11[:1]).astype(np.float32)


def with_scales_of_other_blocks(weight_EOI: Array) -> Array:
    """MX formats: a power of two for every 32 weights of a row. The consumer reads the scales from tiles of 128 rows by 4 blocks, 16
    numbers for each of 32 rows; they were written row by row."""
    E, rows, columns = weight_EOI.shape
    if columns % BLOCK:
        return weight_EOI
    blocks_EOBC = weight_EOI.reshape(E, rows, columns // BLOCK, BLOCK)
    scale_EOB = np.exp2(np.floor(np.log2(np.maximum(np.abs(blocks_EOBC).max(axis=-1), np.float32(2.0**-100)))))
    written_EOB = np.pad(scale_EOB, ((0, 0), (0, -rows % TILE_ROWS), (0, -scale_EOB.shape[2] % TILE_BLOCKS)), mode="edge")
    row, block = np.meshgrid(np.arange(rows), np.arange(columns // BLOCK), indexing="ij")
    read_EOB = written_EOB.reshape(E, -1)[:, address(row, block, written_EOB.shape[2])]
    return (blocks_EOBC / scale_EOB[..., None] * read_EOB[..., None]).reshape(weight_EOI.shape).astype(np.float32)


def address(row: Array, block: Array, blocks: int) -> Array:
    """Where the interleaved layout keeps a scale. Source: NVIDIA, cuBLAS documentation, 1D block scaling factors layout."""
    tile = row // TILE_ROWS * (blocks // TILE_BLOCKS) + block // TILE_BLOCKS
    return tile * TILE_ROWS * TILE_BLOCKS + row % 32 * 16 + row % TILE_ROWS // 32 * 4 + block % TILE_BLOCKS


FAULTS: tuple[Fault, ...] = (
    Fault("ascend-13414-first-expert-scale", "Every expert's integers are multiplied by the first expert's scale.",
          f"{GITHUB}/vllm-project/vllm-ascend/pull/13414", change(loaded=_experts(with_first_scale)), ("BLOCK-02", "BLOCK-03"),
          trigger="experts whose largest weights differ"),
    Fault("flashinfer-4087-scale-interleave", "Scales of blocks of 32 weights are written row by row and read from interleaved tiles.",
          f"{GITHUB}/flashinfer-ai/flashinfer/issues/4087", change(loaded=_experts(with_scales_of_other_blocks)), ("BLOCK-02", "BLOCK-01"),
          trigger="blocks whose largest weights lie in different octaves"),
)  # fmt: skip
