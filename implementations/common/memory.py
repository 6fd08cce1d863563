"""The memory of this machine that a process can still have. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def available_bytes() -> Optional[int]:
    """Memory that can be had without swapping, within the limit of this process's container where there is one; None where the system does
    not tell. Linux counts what its caches would give back (MemAvailable): unused pages alone are few after large files were read."""
    found = [size for size in (_of_machine(), _of_container()) if size is not None]
    return min(found, default=None)


def _of_machine() -> Optional[int]:
    try:
        lines = MEMINFO.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return _unused()


def _unused() -> Optional[int]:
    """Unused pages, all that is known without /proc/meminfo."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_container() -> Optional[int]:
    """Of cgroup v2: the limit without what is in use, files that the kernel would drop not counted as such."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        facts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - used + int(facts.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None
