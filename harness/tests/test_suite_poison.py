"""Poisoned memory is wild, and only inside its block."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from moe_harness.implementations.interface import Unsupported
from moe_harness.suite.poison import poisoned_memory

SIZES = (1_000, 10_000, 1_000_000)  # elements: on the heap, and with pages of their own


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_written_is_huge(size: int) -> None:
    with poisoned_memory():
        fresh = np.empty(size, np.float32)
        assert np.all(fresh > 3e38)
        assert np.all(np.zeros(size, np.float32) == 0)
    del fresh


def test_without_glibc_it_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    with pytest.raises(Unsupported, match="glibc"), poisoned_memory():
        pass
