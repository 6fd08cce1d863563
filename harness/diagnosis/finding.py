"""Where the error enters: layer, operator, expert, tokens, with what shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`operators`: the suspects, the likeliest first, as harness/diagnosis/operators.py calls them. `layer`: the MoE layer in which the
    error is first seen, None where it is after the last or cannot be told. `evidence`: one sentence each."""

    operators: tuple[str, ...]
    layer: int | None = None
    experts: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    evidence: tuple[str, ...] = ()
