"""A file that several threads write is the file that the library reads; what a part raises is raised."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from moe_harness.implementations.checkpoint.safetensors import THREADS, Entry, Part, write_parts

WHOLE: dict[str, np.ndarray] = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.zeros((0, 5), np.int64),
    "c": np.arange(7, dtype=np.float16),
}
ENTRIES = {name: Entry(array.dtype, array.shape) for name, array in WHOLE.items()}


def test_parts_may_come_in_any_order(tmp_path: Path):
    rows = [Part("a", 16 * row, 16, lambda row=row: WHOLE["a"][row]) for row in (2, 0, 1)]  # type: ignore[misc]
    write_parts(tmp_path / "m", ENTRIES, [Part("c", 0, 14, lambda: WHOLE["c"]), *rows], {"who": "me"})
    found = load_file(tmp_path / "m")
    assert {name: (x.dtype, x.shape, x.tobytes()) for name, x in found.items()} == {
        name: (x.dtype, x.shape, x.tobytes()) for name, x in WHOLE.items()
    }
    with safe_open(tmp_path / "m", "np") as file:
        assert file.metadata() == {"who": "me"}


def test_what_no_part_fills_is_zero(tmp_path: Path):
    write_parts(tmp_path / "m", ENTRIES, [])
    assert not any(array.any() for array in load_file(tmp_path / "m").values())


def test_what_a_part_raises_is_raised_and_ends_the_rest(tmp_path: Path):
    made: list[int] = []

    def make(number: int) -> np.ndarray:
        made.append(number)
        if number == 0:
            raise OSError("gone")
        time.sleep(0.02)
        return WHOLE["c"]

    with pytest.raises(OSError, match="gone"):
        write_parts(tmp_path / "m", ENTRIES, [Part("c", 0, 14, lambda number=number: make(number)) for number in range(100)])  # type: ignore[misc]
    assert len(made) < 50


def test_no_more_parts_than_threads_are_in_memory(tmp_path: Path):
    lock, now, most = threading.Lock(), [0], [0]

    class Held(np.ndarray):
        def __del__(self) -> None:
            with lock:
                now[0] -= 1

    def make() -> np.ndarray:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.001)
        return np.zeros(7, np.float16).view(Held)

    write_parts(tmp_path / "m", ENTRIES, [Part("c", 0, 14, make) for _ in range(60)])
    assert 0 < most[0] <= THREADS
