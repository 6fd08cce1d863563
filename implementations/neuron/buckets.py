"""Sizes that graphs are compiled for: powers of two up to the longest sequence, as NxD Inference chooses them."""

from __future__ import annotations

SMALLEST = 16


def buckets(longest: int) -> tuple[int, ...]:
    """Ascending; the last one is `longest` itself."""
    sizes = []
    size = SMALLEST
    while size < longest:
        sizes.append(size)
        size *= 2
    return (*sizes, longest)


def bucket(size: int, among: tuple[int, ...]) -> int:
    """The smallest that holds `size`, which is at most the last one."""
    return next(each for each in among if each >= size)
