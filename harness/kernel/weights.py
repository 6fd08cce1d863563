"""Layer shapes at which a kernel is asked, and expert weights with the outputs that belong to them in float64. Legend: T tokens, K top-k,
E experts, D hidden, F expert FFN.

At small shapes every value is drawn. At a true shape (1.4 G parameters in a Mixtral layer) drawing them and multiplying by them in float64
would take minutes, so rows are drawn from a palette: PALETTE vectors, each at four scales. Which row of which expert holds which of them is
random, so a row, a tile or an expert read from elsewhere still shows, while float64 products are needed for the palette alone.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from moe_harness.cases.tensors import numpy_dtype
from moe_harness.implementations.interface import InvalidInput, ModelConfig
from moe_harness.oracle import layers

SMALL, TRUE = "small", "true"
PALETTE = 256
SCALES = (1.0, -1.0, 0.5, -0.5)  # exact in every binary format
GRID = 2.0**-20  # palette values are multiples of it, so that halving one is exact in float16 too (smallest step 2^-24)


@dataclass(frozen=True)
class Shape:
    name: str
    E: int
    K: int
    D: int
    F: int

    @property
    def parameters(self) -> int:
        """Of all experts together."""
        return 3 * self.E * self.D * self.F

    def __str__(self) -> str:
        return f"E={self.E} K={self.K} D={self.D} F={self.F}"


def small_shapes(config: ModelConfig, dims: tuple[int, int] | None = None) -> dict[str, Shape]:
    """The model's E and K at small D and F: `small`, where all dimensions differ, and two square ones, where a transposed weight has the
    right shape. `dims`: (D, F) for a kernel that takes only multiples of its tile. Raises InvalidInput for dims it cannot halve."""
    E, K = config.routing.num_experts, config.routing.top_k
    D, F = dims or (96 if E <= 64 else 48, 80)  # smaller where there are many experts, so that an export stays below 30 MB
    if D < 2 or F < 1 or D % 2:
        raise InvalidInput(f"small shape D={D} F={F}: D must be even and both positive")
    found = (Shape(SMALL, E, K, D, F), Shape("square-gate-up", E, K, D, D // 2), Shape("square-down", E, K, D, D))
    return {shape.name: shape for shape in found}


def true_shape(config: ModelConfig) -> Shape:
    """That of the model's own layer."""
    return Shape(TRUE, config.routing.num_experts, config.routing.top_k, config.hidden_size, config.moe_intermediate_size)


class Weights(Protocol):
    """`gate_up_E2FD`, `down_EDF`: in the dtype under test."""

    @property
    def shape(self) -> Shape: ...

    @property
    def gate_up_E2FD(self) -> np.ndarray: ...

    @property
    def down_EDF(self) -> np.ndarray: ...

    def outputs(self, x_TD: np.ndarray, ids_TK: np.ndarray, weights_TK: np.ndarray) -> np.ndarray:
        """y_TD in float64."""
        ...


@dataclass(frozen=True)
class DrawnWeights:
    shape: Shape
    gate_up_E2FD: np.ndarray
    down_EDF: np.ndarray

    def outputs(self, x_TD: np.ndarray, ids_TK: np.ndarray, weights_TK: np.ndarray) -> np.ndarray:
        gate_up_E2FD, down_EDF = self._float64
        return layers.moe(x_TD.astype(np.float64), ids_TK, weights_TK.astype(np.float64), gate_up_E2FD, down_EDF)

    @cached_property
    def _float64(self) -> tuple[np.ndarray, np.ndarray]:
        return self.gate_up_E2FD.astype(np.float64), self.down_EDF.astype(np.float64)


def drawn(shape: Shape, dtype: str, seed: int = 0) -> DrawnWeights:
    """Normal with variance 1/columns, so that activations keep their scale."""
    rng = np.random.default_rng([seed, shape.D, shape.F])
    E, D, F = shape.E, shape.D, shape.F
    gate_up = rng.standard_normal((E, 2 * F, D), np.float32) / np.float32(np.sqrt(D))
    down = rng.standard_normal((E, D, F), np.float32) / np.float32(np.sqrt(F))
    return DrawnWeights(shape, gate_up.astype(numpy_dtype(dtype)), down.astype(numpy_dtype(dtype)))


@dataclass(frozen=True)
class PaletteWeights:
    """Row r of expert e's gate and up is row `gate_up_rows_E2F[e, r]` of `gate_up_PD`; of its down, `down_rows_ED[e, r]` of `down_PF`."""

    shape: Shape
    gate_up_E2FD: np.ndarray
    down_EDF: np.ndarray
    gate_up_PD: np.ndarray
    down_PF: np.ndarray
    gate_up_rows_E2F: np.ndarray
    down_rows_ED: np.ndarray

    def outputs(self, x_TD: np.ndarray, ids_TK: np.ndarray, weights_TK: np.ndarray) -> np.ndarray:
        products_TP = _products(x_TD, self.gate_up_PD)
        y_TD = np.zeros(x_TD.shape)
        for e in np.unique(ids_TK):
            token, slot = np.nonzero(ids_TK == e)
            gate, up = np.split(products_TP[token][:, self.gate_up_rows_E2F[e]], 2, axis=-1)
            out_TP = _products(layers.silu(gate) * up, self.down_PF)
            np.add.at(y_TD, token, weights_TK[token, slot, None].astype(np.float64) * out_TP[:, self.down_rows_ED[e]])
        return y_TD


def palette(shape: Shape, dtype: str, seed: int = 0) -> PaletteWeights:
    """Weights of variance near 1/columns, filled row by row from the palette."""
    rng = np.random.default_rng([seed, shape.D, shape.F])
    gate_up_PD, down_PF = (_palette_rows(rng, columns, dtype) for columns in (shape.D, shape.F))
    gate_up_rows = rng.integers(len(gate_up_PD), size=(shape.E, 2 * shape.F))
    down_rows = rng.integers(len(down_PF), size=(shape.E, shape.D))
    gate_up, down = _fill(gate_up_PD, gate_up_rows), _fill(down_PF, down_rows)
    return PaletteWeights(shape, gate_up, down, gate_up_PD, down_PF, gate_up_rows, down_rows)


def _palette_rows(rng: np.random.Generator, columns: int, dtype: str) -> np.ndarray:
    values = rng.standard_normal((PALETTE, columns)) / np.sqrt(columns * np.mean(np.square(SCALES)))
    base = (np.round(values / GRID) * GRID).astype(numpy_dtype(dtype))
    return np.concatenate([base * np.asarray(scale, base.dtype) for scale in SCALES])


def _products(x_TC: np.ndarray, rows_PC: np.ndarray) -> np.ndarray:
    """x @ rows.T in float64; the scaled rows' products are those of the first PALETTE rows, scaled."""
    base_TP = x_TC.astype(np.float64) @ rows_PC[:PALETTE].astype(np.float64).T
    return np.concatenate([base_TP * scale for scale in SCALES], axis=-1)


def _fill(rows_PC: np.ndarray, chosen_ER: np.ndarray) -> np.ndarray:
    """Copies rows as plain bits: numpy moves its own dtypes faster than ml_dtypes'. Most of the time goes into the first touch of fresh
    memory, which several threads share."""
    bits = rows_PC.view(np.dtype(f"u{rows_PC.itemsize}"))
    filled = np.empty((*chosen_ER.shape, rows_PC.shape[1]), bits.dtype)

    def copy(e: int) -> None:
        np.take(bits, chosen_ER[e], axis=0, out=filled[e], mode="clip")  # without a mode, numpy buffers `out`

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:
        list(threads.map(copy, range(len(filled))))
    return filled.view(rows_PC.dtype)
