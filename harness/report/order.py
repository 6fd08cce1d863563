"""The order in which backends, cases, dtypes and topics are shown, and their short names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_harness.records.frame import Frame

TOPICS = {
    "ROUTE": "routing", "BLOCK": "MoE block", "PARITY": "whole model", "CACHE": "KV cache", "WINDOW": "sliding window", "PAD": "padding",
    "BATCH": "batch rows", "PACK": "packed rows", "CONV": "conversion", "GEN": "generation", "CAP": "capabilities", "DET": "determinism",
    "MEM": "memory", "INPUT": "invalid input", "LOSS": "loss", "SLOT": "request slots", "DROP": "expert capacity",
    "STATIC": "static graphs",
}  # fmt: skip
_RANKS = {name: rank for rank, name in enumerate(TOPICS)}
_DTYPES = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16", "float8_e4m3": "fp8"}
_DTYPE_RANK = {name: rank for rank, name in enumerate(_DTYPES)}


def short_dtype(name: str) -> str:
    """bfloat16 -> bf16; an unknown name stays."""
    return _DTYPES.get(name, name)


def topic_key(topic: str) -> tuple[int, str]:
    """The specification's order; topics it does not know come last."""
    return (_RANKS.get(topic, len(_RANKS)), topic)


def place_key(row: Mapping[str, Any]) -> tuple[bool, str, str, str, int, str]:
    """The reference first, then backends by name, their machines and cases, then dtypes from wide to narrow."""
    rank = _DTYPE_RANK.get(row["dtype"], len(_DTYPE_RANK))
    return (not row["backend"].startswith("hf"), row["backend"], row["machine"], row["case"], rank, row["dtype"])


class Labels:
    """A backend's name, with its machine where the backend occurs on several ones."""

    def __init__(self, frame: Frame):
        pairs = set(zip(frame.rows["backend"], frame.rows["machine"], strict=True))
        names = [backend for backend, _ in pairs]
        self._several = {name for name in names if names.count(name) > 1}

    def __call__(self, row: Mapping[str, Any]) -> str:
        backend = row["backend"] or "no backend"
        return f"{backend} @ {row['machine']}" if row["backend"] in self._several else backend
