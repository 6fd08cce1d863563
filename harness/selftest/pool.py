"""Work shared out to one process per core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from moe_harness.implementations.worker.bond import end_with_parent
from moe_harness.processes.threads import one_thread_each

Mapper = Callable[[Callable[[Path, Any], Any], Sequence[Any]], Iterator[Any]]


@contextmanager
def pool(workers: int) -> Iterator[Mapper]:
    """A function that maps `work(directory, task)` over tasks and yields the answers in their order. One worker is this process. New
    processes are spawned, not forked: a fork would copy locks that another thread holds. Each counts with one thread."""
    with TemporaryDirectory(prefix="moe-harness-selftest-") as name:
        directory = Path(name)
        if workers <= 1:
            yield lambda work, tasks: map(partial(work, directory), tasks)
            return
        with one_thread_each(), ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) as executor:
            yield lambda work, tasks: executor.map(partial(work, directory), tasks)
