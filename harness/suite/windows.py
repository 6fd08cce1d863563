"""Sliding windows: how wide in the checks, and which families can have one."""

from __future__ import annotations

from moe_harness.implementations.families.family import Family

WINDOW = 8


def has_window(family: Family) -> bool:
    return "sliding_window" in family.free
