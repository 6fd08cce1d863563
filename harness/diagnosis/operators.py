"""Operators, the parts of a model that a seam of the subject belongs to: what a fault damages and a diagnosis names. A finding
names them as suspects.

The label of a fault is derived from the functions it replaces, never written down by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from moe_harness.emulator.seams import HOME
from moe_harness.mutants.catalogue import changed_seams
from moe_harness.mutants.entry import Fault

# seam record -> operator, but for the seams named below
RECORDS = {
    "network": "matrix products",
    "router": "routing ids",
    "experts": "experts",
    "capacity": "capacity",
    "attention": "attention",
    "cache": "cache",
    "calls": "calls and padding",
    "storage": "conversion",
    "sampling": "sampling",
}
SEAMS = {
    "embed": "embedding",
    "epsilon": "norm",
    "final_norm": "head",
    "router_logits": "router logits",
    "router_input": "router logits",
    "router_layer": "router logits",
    "add_bias": "router logits",
    "weight_source": "routing weights",
    "weights": "routing weights",
    "scale": "routing weights",
    "round_weights": "routing weights",
    "dispatch": "dispatch",
    "combine": "combine",
    "dense_mlp": "dense layer",
    "shared_input": "shared expert",
    "shared_gate": "shared expert",
    "add_shared": "shared expert",
    "prefill_positions": "positions",
    "decode_positions": "positions",
    "rope_tables": "positions",
    "rotate": "positions",
    "position_heads": "positions",
    "describe": "declarations",
    "features": "declarations",
    "shown": "declarations",
    "top": "log-probabilities",
    "segments": "packing",
    "packed_positions": "packing",
    "packed_last": "packing",
    "boundaries": "packing",
    "kept_labels": "loss",
    "targets": "loss",
    "mean_loss": "loss",
    "admit_slots": "slots",
    "seat": "slots",
    "begin": "slots",
    "compiled_experts": "graphs",
}

# What the checks of a topic are about: the first suspects where nothing else is known
TOPICS = {
    "BATCH": ("calls and padding", "attention"),
    "BLOCK": ("combine", "experts"),
    "CACHE": ("cache", "positions"),
    "CAP": ("declarations",),
    "CONV": ("conversion",),
    "DET": ("matrix products", "combine"),
    "DROP": ("capacity", "routing weights"),
    "GEN": ("sampling",),
    "INPUT": ("calls and padding",),
    "LOSS": ("loss",),
    "MEM": ("combine", "cache"),
    "PACK": ("packing",),
    "PAD": ("calls and padding", "attention"),
    "PARITY": ("log-probabilities", "matrix products"),
    "ROUTE": ("routing ids", "router logits"),
    "SLOT": ("slots", "cache"),
    "STATIC": ("graphs",),
    "WINDOW": ("attention", "positions"),
}


def suspects(clause: str) -> tuple[str, ...]:
    """By the topic of a clause ("GEN-03"); empty for one without."""
    return TOPICS.get(clause.split("-")[0], ())


def operator(seam: str) -> str:
    return SEAMS.get(seam) or RECORDS[HOME[seam]]


@cache
def operators(fault: Fault) -> frozenset[str]:
    """Those that a fault damages."""
    return frozenset(operator(seam) for seam in changed_seams(fault))


@dataclass(frozen=True)
class Finding:
    """`operators`: the suspects, the likeliest first, as this module calls them. `layer`: the MoE layer in which the error is first
    seen, None where it is after the last or cannot be told. `evidence`: one sentence each."""

    operators: tuple[str, ...]
    layer: int | None = None
    experts: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    evidence: tuple[str, ...] = ()
