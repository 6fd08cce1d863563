"""What may be called through a worker: the methods of the contract, by the kind of thing that stays on the far side.

A new method of the contract is one word here; a test compares the lists with `moe_harness.interface`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Tuple


@dataclass(frozen=True)
class Kind:
    """`required`: methods that every such object has. `optional`: those of the runtime-checkable protocols, which it may lack."""

    required: Tuple[str, ...]
    optional: Tuple[str, ...] = ()

    def methods_of(self, thing: Any) -> List[str]:
        """Those that `thing` has."""
        return [name for name in self.required + self.optional if callable(getattr(thing, name, None))]


GAUGE = ("product_flops_per_s", "read_bytes_per_s", "device_peak_bytes")
KINDS: Dict[str, Kind] = {
    "backend": Kind(("capabilities", "from_hf", "to_hf", "load"), ("router", "train", "compilation", *GAUGE)),
    "model": Kind(
        ("capabilities", "prefill", "decode", "reset", "close"),
        ("route", "moe_block", "generate", "prefill_packed", "loss", "prefill_slots", "decode_slots", "computed_batch", "prove_static"),
    ),
    "router": Kind(("route",)),
}
MAKES = {"load": "model", "router": "router"}  # method -> kind of what it returns; it stays on the far side
