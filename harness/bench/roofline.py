"""How near a speed is to what the place it runs at allows (the roofline model, Williams, Waterman, Patterson 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moe_harness.bench.machine import LARGEST
from moe_harness.bench.place import Place
from moe_harness.bench.traffic import Work


@dataclass(frozen=True)
class Roofline:
    """The shortest time that the work allows: the longer of operations over the rate of products and bytes over the rate of reading.

    `flops_per_s` None: nobody multiplies this dtype here, so that bytes alone limit. `share`: that time over the measured one; near 1
    is near the limit, and above 1 the probe was slower than the model (a disturbed machine, or weights that a cache held)."""

    flops_per_s: float | None
    bytes_per_s: float
    seconds: float
    share: float
    by: str

    def to_record(self) -> dict[str, Any]:
        return dict(vars(self))


def roofline(work: Work, place: Place, measured: float, cold: bool = False) -> Roofline:
    """`measured`: seconds of a round. The reads are held against a buffer as large as what they can come from: the bytes of a round, or,
    where the calls of a round read the same weights again, all the weights. `cold`: against one that no cache holds."""
    source = min(work.bytes, work.weights) if work.weights else work.bytes
    bytes_per_s = place.read(max(source, LARGEST) if cold else source)
    compute = work.flops / place.flops_per_s if place.flops_per_s else 0.0
    reading = work.bytes / bytes_per_s
    seconds = max(compute, reading)
    return Roofline(place.flops_per_s, bytes_per_s, seconds, seconds / measured, "compute" if compute > reading else "bandwidth")
