"""Memory of the host that can be had without swapping, what caches would give back included: the one place that asks for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, Optional

MEMINFO = Path("/proc/meminfo")
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_bytes() -> Optional[int]:
    """The least of what the system has and what the control groups of this process leave: in a container the system tells the host's. None
    where nothing tells."""
    system = _system()
    return None if system is None else max(0, min([system, *_left_by_cgroups()]))


def _system() -> Optional[int]:
    """Linux says what it could give (proc_meminfo(5)); elsewhere unused pages are the most that a system tells."""
    if MEMINFO.exists():
        return _fields(MEMINFO, ":", unit=1024).get("MemAvailable")
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _left_by_cgroups() -> Iterator[int]:
    """Room below the limit of the process's control group and of each above it (cgroup v2), files that nobody read lately not counted."""
    paths = [line[3:] for line in _text(OWN_CGROUP).splitlines() if line.startswith("0::")]
    own = CGROUPS / paths[0].lstrip("/") if paths else CGROUPS
    for group in (own, *own.parents):
        limit, used = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
        if limit.isdigit() and used.isdigit():  # "max": no limit
            yield int(limit) - int(used) + _fields(group / "memory.stat").get("inactive_file", 0)
        if group == CGROUPS:
            return


def _fields(path: Path, end: str = "", unit: int = 1) -> dict[str, int]:
    """Numbers of the lines `name<end> n ...`."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0][: len(row[0]) - len(end)]: unit * int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
