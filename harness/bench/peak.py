"""Peak memory of a call. Host: the resident set of this process, the harness's own arrays included. Device: as a backend's gauge tells."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # to clear_refs: sets VmHWM to the present size (Linux 4.0, proc_pid_clear_refs(5))
RESET, SINCE_START = "VmHWM, reset before the round", "ru_maxrss, since the process began"


def during(call: Callable[[], object], device_peak: Callable[[], int | None] = lambda: None) -> dict[str, Any]:
    """Runs it and returns {host_peak_bytes, host_before_bytes, device_peak_bytes, device_before_bytes, method}. Where the kernel lets
    nobody reset the peak, it is that of the whole process so far: an upper bound, and `method` says so. `host_before_bytes` None: the
    system does not tell. `device_peak`: as Gauge's; None: there is no device, or it does not tell."""
    before, was_reset = _status("VmRSS"), _reset()
    _, device_before = device_peak(), device_peak()  # the first call forgets what was before
    call()
    found = {"device_peak_bytes": device_peak(), "device_before_bytes": device_before}
    peak = _status("VmHWM") if was_reset else _since_start()
    return {"host_peak_bytes": peak, "host_before_bytes": before, **found, "method": RESET if was_reset else SINCE_START}


def _reset() -> bool:
    try:
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
    except OSError:
        return False
    return _status("VmHWM") is not None


def _status(name: str) -> int | None:
    """Bytes of a `name:  n kB` line."""
    try:
        lines = (PROCESS / "status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _since_start() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, kilobytes elsewhere
