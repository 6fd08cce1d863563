"""Matrix products whose sums a good engineer may order differently. All are float32 in, float32 out; orders and splits come from a seed.

A product maps x (..., I) and weight_OI to y (..., O), not rounded. Error of any order: Higham 2002, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, reduce

import numpy as np

from moe_harness.emulator.numerics import Array, Linear, Rounding

Product = Callable[[Array, Array], Array]
Order = Callable[[int], Array]
CHUNK = 1 << 20  # numbers of a table of single products that are held at a time


def as_linear(product: Product) -> Linear:
    """Bias added in float32, one rounding: what numerics.linear does around its own product."""

    def linear(x: Array, weight_OI: Array, bias_O: Array | None, rounding: Rounding) -> Array:
        y = product(x, weight_OI)
        return rounding(y if bias_O is None else y + bias_O)

    return linear


def order_of(seed: int) -> Order:
    """A permutation of any number of terms, the same for the same number."""
    return cache(lambda terms: np.random.default_rng((seed, terms)).permutation(terms))


def permuted(seed: int) -> Product:
    """One running sum over the terms in a drawn order."""
    order = order_of(seed)
    return lambda x, weight_OI: x[..., order(x.shape[-1])] @ weight_OI[:, order(x.shape[-1])].T


def drawn_cuts(seed: int, terms: int, most: int) -> Array:
    """Bounds of 2 to `most` runs of drawn lengths."""
    rng = np.random.default_rng((seed, terms))
    parts = max(min(int(rng.integers(2, most + 1)), terms), 1)
    inner = rng.choice(np.arange(1, max(terms, 2)), parts - 1, replace=False)
    return np.array([0, *np.sort(inner), terms])


def partial_products(x: Array, weight_OI: Array, cuts: Array) -> list[Array]:
    """The products over each run of the contraction."""
    return [x[..., a:b] @ weight_OI[:, a:b].T for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def split(seed: int) -> Product:
    """Split-K with 2 to 8 parts at drawn places, added one after the other."""
    return lambda x, weight_OI: reduce(np.add, partial_products(x, weight_OI, drawn_cuts(seed, x.shape[-1], 8)))


def tree(seed: int) -> Product:
    """Blocks of a drawn size, added in pairs, and the pairs in pairs."""
    size = int(np.random.default_rng(seed).choice([4, 8, 16, 32]))

    def product(x: Array, weight_OI: Array) -> Array:
        terms = x.shape[-1]
        return pairwise(partial_products(x, weight_OI, np.append(np.arange(0, terms, size), terms)))

    return product


def lanes(seed: int) -> Product:
    """A running sum in each of several lanes, term by term in turn, as vector units do; lanes added in pairs."""
    rng = np.random.default_rng(seed)
    count = int(rng.choice([2, 4, 8, 16]))
    start = int(rng.integers(count))  # which lane is added first
    turns = [(start + lane) % count for lane in range(count)]
    return lambda x, weight_OI: pairwise([x[..., lane::count] @ weight_OI[:, lane::count].T for lane in turns])


def pairwise(parts: list[Array]) -> Array:
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + (parts[-1:] if len(parts) % 2 else [])
    return parts[0]


def single_products(seed: int) -> Product:
    """No fused multiply-add: each product is rounded to float32, then numpy adds them in pairs, in a drawn order."""
    order = order_of(seed)

    def product(x: Array, weight_OI: Array) -> Array:
        terms = order(x.shape[-1])
        rows, weight_OI = x.reshape(-1, x.shape[-1])[:, terms], weight_OI[:, terms]
        y = np.empty((len(rows), len(weight_OI)), np.float32)
        step = max(1, CHUNK // weight_OI.size)
        for start in range(0, len(rows), step):
            y[start : start + step] = (rows[start : start + step, None] * weight_OI).sum(axis=-1)
        return y.reshape(*x.shape[:-1], len(weight_OI))

    return product


def in_float64(x: Array, weight_OI: Array) -> Array:
    return (x.astype(np.float64) @ weight_OI.T.astype(np.float64)).astype(np.float32)


def row_by_row(x: Array, weight_OI: Array) -> Array:
    return (x[..., None, :] @ weight_OI.T)[..., 0, :]


def tiles_of_rows(seed: int) -> Product:
    """Tiles of 1 to 8 rows, each by itself, in a drawn order of terms."""
    rows_of, ordered = 1 + seed % 8, permuted(seed)

    def product(x: Array, weight_OI: Array) -> Array:
        rows = x.reshape(-1, x.shape[-1])
        parts = [ordered(rows[start : start + rows_of], weight_OI) for start in range(0, max(len(rows), 1), rows_of)]
        return np.concatenate(parts).reshape(*x.shape[:-1], len(weight_OI))

    return product
