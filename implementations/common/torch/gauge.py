"""What a device does through torch: `Gauge` of interface.py, for the backends that run on torch, which is imported when they are asked."""

from __future__ import annotations

import time
from typing import Any, Callable, Optional

SIDE, SIDE_ON_DEVICE = 1536, 8192  # rows and columns of the matrices; larger ones are no faster
REPEATS, SECONDS = 4, 0.1  # at least so many, for at least so long: the best one counts, the others were disturbed
LAUNCHES = 8  # of which a device's repeat consists, so that it never waits for the host


class TorchGauge:
    def product_flops_per_s(self, dtype: str, device: str) -> float:
        """float32 as torch multiplies it unless told otherwise: without TF32."""
        import torch

        n = SIDE_ON_DEVICE if _is_device(device) else SIDE
        a, b = torch.randn(2, n, n, device=device).to(getattr(torch, dtype))
        out = torch.empty_like(a)
        return 2 * n**3 / _best_time(lambda: torch.mm(a, b, out=out), device)

    def read_bytes_per_s(self, size: int, device: str) -> float:
        """The fastest of three reductions of float32."""
        import torch

        values = torch.ones(size // 4, device=device)
        readers: tuple[Callable[[], object], ...] = (values.sum, values.amax, lambda: torch.dot(values, values))
        return size / min(_best_time(read, device) for read in readers)

    def device_peak_bytes(self, device: str) -> Optional[int]:
        """What torch's allocator handed out."""
        if not _is_device(device):
            return None
        import torch

        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak


def _is_device(name: str) -> bool:
    return not name.startswith("cpu")


def _best_time(call: Callable[[], Any], device: str) -> float:
    """Seconds of a call, in the fastest of several repeats; the first, which touches fresh memory, does not count."""
    launches, wait = (LAUNCHES, _wait) if _is_device(device) else (1, lambda: None)
    call()
    times: list[float] = []
    while len(times) < REPEATS or sum(times) * launches < SECONDS:
        wait()
        began = time.perf_counter()
        for _ in range(launches):
            call()
        wait()
        times.append((time.perf_counter() - began) / launches)
    return min(times)


def _wait() -> None:
    import torch

    torch.cuda.synchronize()
