"""Makes the golden prompts of a case. Legend: B prompts, X sides, L MoE layers, S sequence, K top-k."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from moe_harness.build_golden.noise import Noise
from moe_harness.build_golden.search import Search
from moe_harness.cases.cases import Case
from moe_harness.cases.prompts import CLEAR, TIED_DTYPES, TIES, Key, Prompts, stack
from moe_harness.implementations.interface import DTYPES

LENGTHS = (16, 12, 8)  # the longest at which enough clear prompts are found
LONGEST = LENGTHS[0]
CLEAR_PROMPTS, NEAR_TIES = 8, 2  # as many near-ties are looked for; one is enough
WINDOWS, CALIBRATION = 64, 16  # stretches of text to start from at most, and to calibrate on
FIRST_TIE = 4  # the earliest position of a near-tie
COARSEST = "bfloat16"  # what is clear in it is searched for; in finer dtypes the same prompts are clearer still


class NotFound(Exception):
    """Too few prompts were found. `str()` says of what kind, and how many."""


def make(case: Case, text: bytes, seed: int = 0) -> tuple[dict[Key, Prompts], dict[str, dict[str, float]]]:
    """The case's prompts by kind and dtype, and facts about them by dtype. Deterministic. Raises NotFound."""
    calibration_BS, windows_BS = _windows(text[: len(text) // 2], CALIBRATION, seed), _windows(text[len(text) // 2 :], WINDOWS, seed)
    noises = {dtype: Noise(case, dtype, calibration_BS) for dtype in DTYPES}
    clear = _longest(Search(noises[COARSEST]), windows_BS)
    windows_BS = windows_BS[:, : clear.input_ids_BS.shape[1]]
    found = {(CLEAR, dtype): _measured(clear, noise) for dtype, noise in noises.items()}
    found |= {(TIES, dtype): _near_ties(Search(noises[dtype]), clear, windows_BS) for dtype in TIED_DTYPES}
    return found, {dtype: _facts(found, noise) for dtype, noise in noises.items()}


def _windows(text: bytes, count: int, seed: int) -> np.ndarray:
    """input_ids_BS of stretches of text."""
    starts = np.random.default_rng(seed).choice(len(text) - LONGEST, count, replace=False)
    return np.stack([np.frombuffer(text[start : start + LONGEST], np.uint8) for start in starts]).astype(np.int64)


def _longest(search: Search, windows_BS: np.ndarray) -> Prompts:
    for length in LENGTHS:
        found = _clear(search, windows_BS[:, :length])
        if len(found) == CLEAR_PROMPTS:
            return stack(found)
    raise NotFound(f"{search.noise.case.name}: {len(found)} clear prompts of {length} tokens, {CLEAR_PROMPTS} wanted")


def _clear(search: Search, windows_BS: np.ndarray) -> list[Prompts]:
    """As many as are wanted, or fewer."""
    found: list[Prompts] = []
    for window_S in windows_BS:
        prompt = search.clear(window_S)
        if prompt is not None and not any(np.array_equal(prompt.input_ids_BS, other.input_ids_BS) for other in found):
            found.append(prompt)
        if len(found) == CLEAR_PROMPTS:
            break
    return found


def _measured(clear: Prompts, noise: Noise) -> Prompts:
    """Clear prompts with the noise of a dtype. Raises NotFound where they are not clear in it, in a batch and to every honest kind."""
    pinned_LBSK = clear.ids_BXLSK[:, 0].swapaxes(0, 1)
    found = replace(clear, noise_BXLS=noise.bound(clear.input_ids_BS, pinned_LBSK).swapaxes(0, 1)[:, None])
    if (found.clearance_B <= 1).any() or (noise.selections(clear.input_ids_BS) != np.sort(pinned_LBSK)).any():
        raise NotFound(f"{noise.case.name}: a prompt that is clear in {COARSEST} is not clear in {noise.dtype}")
    return found


def _near_ties(search: Search, clear: Prompts, windows_BS: np.ndarray) -> Prompts:
    """One per beginning, in turn, as long as some are wanted."""
    found: list[Prompts] = []
    for prefix_S, window_S in _prefixes(clear, windows_BS):
        if any(np.array_equal(other.input_ids_BS[0, : other.tie_B2[0, 1]], prefix_S) for other in found):
            continue
        prompt = search.near_tie(prefix_S, window_S)
        found += [prompt] if prompt is not None else []
        if len(found) == NEAR_TIES:
            break
    if not found:
        raise NotFound(f"{search.noise.case.name}, {search.noise.dtype}: no near-tie")
    return stack(found)


def _prefixes(clear: Prompts, windows_BS: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The beginnings of clear prompts, the tie as early as it can be, and text to go on with: once more with other text where none did."""
    for first in range(0, len(windows_BS), len(clear)):
        for position in range(FIRST_TIE, windows_BS.shape[1]):
            for row, input_ids_S in enumerate(clear.input_ids_BS, first):
                yield input_ids_S[:position], windows_BS[row]


def _facts(found: dict[Key, Prompts], noise: Noise) -> dict[str, float]:
    counts = {kind: len(found[kind, noise.dtype]) for kind in (CLEAR, TIES) if (kind, noise.dtype) in found}
    return {
        "kinds": len(noise.models),
        "factor": round(noise.factor, 3),
        "length": found[CLEAR, noise.dtype].input_ids_BS.shape[1],
        **counts,
    }
