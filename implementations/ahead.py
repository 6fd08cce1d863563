"""Arrays made in threads while others are written. numpy lets other threads run while it copies."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable, Deque, Hashable, Iterator, Sequence, Tuple

import numpy as np

Make = Callable[[Any], np.ndarray]


def threads() -> int:
    return min(8, os.cpu_count() or 1)


@contextmanager
def ahead(make: Make, names: Sequence[Hashable], depth: int) -> Iterator[Make]:
    """`make`, to be called for `names` in their order: the next `depth` ones are under way by then."""
    waiting: Deque[Tuple[Hashable, "Future[np.ndarray]"]] = deque()
    following = iter(names)
    with ThreadPoolExecutor(depth) as pool:

        def start() -> None:
            for name in following:
                waiting.append((name, pool.submit(make, name)))
                return

        def taken(name: Any) -> np.ndarray:
            started, future = waiting.popleft()
            assert started == name, f"{name} is asked for where {started} follows"
            start()
            return future.result()

        for _ in range(depth):
            start()
        try:
            yield taken
        finally:
            for _, future in waiting:
                future.cancel()
