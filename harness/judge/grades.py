"""Grades: how much a backend shows, and so how sharp its verdict can be. See docs/spec.md, "Grades"."""

from __future__ import annotations

from collections.abc import Iterable

from moe_harness.implementations.interface import Capabilities

TOP = "top-"


def grade(capabilities: Capabilities) -> str:
    """A: the router and each MoE block by themselves; B: the routing inside the model; C: logits; D: the likeliest tokens alone; "" where
    there is no model, only routers."""
    if "probe" in capabilities.features:
        return "A"
    if "routing" in capabilities.features:
        return "B"
    if {"all", "last"} & set(capabilities.logits):
        return "C" if "prefill" in capabilities.features else ""
    return "D" if top_n(capabilities.logits) else ""


def top_n(logits: Iterable[str]) -> int:
    """The largest n of the declared `top-<n>`, 0 without any."""
    numbers = (name.removeprefix(TOP) for name in logits if name.startswith(TOP))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)
