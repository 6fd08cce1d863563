"""Checks stored golden prompts against the oracle, without measuring noise again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from moe_harness.build_golden.reading import margins, read
from moe_harness.cases.prompts import CLEAR, Key, Prompts
from moe_harness.oracle.model import Oracle

SAME = 1e-9  # of two float64 runs on different machines, in units of what is ranked


def problems(oracle: Oracle, found: Mapping[Key, Prompts]) -> Iterator[str]:
    """What is wrong with the prompts, one phrase each."""
    for (kind, dtype), prompts in found.items():
        for row in range(len(prompts)):
            yield from (f"{kind} prompt {row} of {dtype}: {problem}" for problem in _problems(oracle, kind, prompts, row))


def _problems(oracle: Oracle, kind: str, prompts: Prompts, row: int) -> Iterator[str]:
    input_ids_S, tie = prompts.input_ids_BS[row], tuple(prompts.tie_B2[row].tolist())
    reading = read(oracle, input_ids_S, None if kind == CLEAR else tie)
    if not np.array_equal(np.sort(reading.ids_XLSK), np.sort(prompts.ids_BXLSK[row])):
        yield "the oracle selects other experts"
    elif not np.allclose(reading.margin_XLS, prompts.margin_BXLS[row], rtol=0, atol=SAME):
        yield "the oracle's margins are others"
    if not (reading.margin_XLS > prompts.noise_BXLS[row]).all():
        yield "a margin is within the noise"
    if kind != CLEAR and not abs(margins(oracle, reading.sides[0])[tie] - prompts.tie_margin_B[row]) <= SAME:
        yield "the near-tie is not as near as recorded"
