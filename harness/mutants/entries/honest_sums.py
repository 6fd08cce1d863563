"""Honest kinds: the order and precision of every matmul's sum."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from moe_harness.emulator import sums
from moe_harness.emulator.numerics import Array, Linear, Rounding
from moe_harness.mutants.entry import GITHUB, Change, Honest, Seeded, change, together

PYTORCH = "https://docs.pytorch.org/docs/stable/notes/numerical_accuracy.html"


def summing(product: sums.Product) -> Change:
    return change(linear=sums.as_linear(product))


def in_drawn_order(seed: int) -> Change:
    """What the kinds of the other files stand on: no two engines sum alike."""
    return summing(sums.permuted(seed))


def on_drawn_order(kind: Change) -> Seeded:
    """The kind (of that seed, where it draws) on matmuls that sum in a drawn order."""
    return Seeded(lambda seed: together(in_drawn_order(seed), kind.draw(seed) if isinstance(kind, Seeded) else kind))


def _drawn(product: Callable[[int], sums.Product]) -> Seeded:
    return Seeded(lambda seed: summing(product(seed)))


def partials_in_model_dtype(seed: int) -> Linear:
    """2 to 4 partial sums, each rounded on its way through memory."""

    def linear(x: Array, weight_OI: Array, bias_O: Array | None, rounding: Rounding) -> Array:
        parts = sums.partial_products(x, weight_OI, sums.drawn_cuts(seed, x.shape[-1], 4))
        y = reduce(np.add, map(rounding, parts))
        return rounding(y if bias_O is None else y + bias_O)

    return linear


def bias_apart(seed: int) -> Linear:
    """Another kernel adds the bias to what the matmul has written."""
    product = sums.permuted(seed)

    def linear(x: Array, weight_OI: Array, bias_O: Array | None, rounding: Rounding) -> Array:
        y = rounding(product(x, weight_OI))
        return y if bias_O is None else rounding(y + bias_O)

    return linear


KINDS: tuple[Honest, ...] = (
    Honest("sum-in-drawn-order", "Every matmul sums its terms in another order.", None, _drawn(sums.permuted)),
    Honest("benign-bf16-expert-flip", "Every matmul is split over K in 2 to 8 parts: near ties select other experts.",
           f"{GITHUB}/TransformerLensOrg/TransformerLens/pull/521", _drawn(sums.split)),
    Honest("sum-tree", "Blocks of 4 to 32 terms, added in pairs.", None, _drawn(sums.tree)),
    Honest("sum-in-lanes", "2 to 16 running sums, as vector units keep them.", None, _drawn(sums.lanes)),
    Honest("sum-of-products", "No fused multiply-add, pairwise summation.", None, _drawn(sums.single_products)),
    Honest("sum-in-tiles-of-rows", "Rows are computed 1 to 8 at a time.", None, _drawn(sums.tiles_of_rows)),
    Honest("summed-in-float64", "Every matmul accumulates in float64.", None, summing(sums.in_float64)),
    Honest("one-row-at-a-time",
           "Every matmul is done row by row: the only kind whose rows do not depend on their neighbours in any bit.",
           None, summing(sums.row_by_row)),
    Honest("partials-in-model-dtype", "Split-K whose 2 to 4 partial sums are rounded, as PyTorch lets cuBLAS do by default.",
           PYTORCH, Seeded(lambda seed: change(linear=partials_in_model_dtype(seed)))),
    Honest("bias-apart", "The matmul is rounded before its bias is added.",
           None, Seeded(lambda seed: change(linear=bias_apart(seed))), families=("qwen2_moe", "qwen3_moe")),
)  # fmt: skip
