"""Makes the golden prompts of a case, and checks stored ones. Legend: B prompts, S sequence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.cases import Case
from harness.prompts.noise import Noise
from harness.prompts.search import Search
from harness.prompts.stored import CLEAR, TIES, Key, Prompts, stack
from implementations.interface import DTYPES

LENGTH, CLEAR_PROMPTS, NEAR_TIES = 16, 8, 4
WINDOWS, CALIBRATION = 400, 16  # stretches of text to start from at most, and to calibrate on
ALIKE = 4  # no two prompts begin with the same tokens, this many
# A float32 near-tie would have to be as close as a millionth: there is about one in a million tokens.
TIED_DTYPES = ("bfloat16", "float16")


class NotFound(Exception):
    """Too few prompts were found. `str()` says of what kind, and how many."""


def make(case: Case, text: bytes, seed: int = 0) -> tuple[dict[Key, Prompts], dict[str, dict[str, float]]]:
    """The case's prompts by kind and dtype, and facts about them by dtype. Deterministic. Raises NotFound."""
    calibration_BS, windows_BS = _windows(text[: len(text) // 2], CALIBRATION, seed), _windows(text[len(text) // 2 :], WINDOWS, seed)
    found: dict[Key, Prompts] = {}
    facts: dict[str, dict[str, float]] = {}
    for dtype in DTYPES:
        noise = Noise(case, dtype, calibration_BS)
        clear = found[CLEAR, dtype] = _clear(Search(noise), windows_BS)
        if (noise.selections(clear.input_ids_BS) != np.sort(clear.ids_BXLSK[:, 0]).swapaxes(0, 1)).any():
            raise NotFound(f"{case.name}, {dtype}: an honest variant flips on a clear prompt")
        facts[dtype] = {"variants": len(noise.models), "factor": noise.factor, "clear": len(clear), "length": LENGTH}
        if dtype in TIED_DTYPES:
            found[TIES, dtype] = _near_ties(Search(noise), clear, windows_BS)
            facts[dtype]["near_ties"] = len(found[TIES, dtype])
    return found, facts


def _windows(text: bytes, count: int, seed: int) -> np.ndarray:
    """input_ids_BS of stretches of text."""
    starts = np.random.default_rng(seed).choice(len(text) - LENGTH, count, replace=False)
    return np.stack([np.frombuffer(text[start : start + LENGTH], np.uint8) for start in starts]).astype(np.int64)


def _clear(search: Search, windows_BS: np.ndarray) -> Prompts:
    found: list[Prompts] = []
    for window_S in windows_BS:
        prompt = search.clear(window_S)
        if prompt is not None and not any(_alike(prompt, other) for other in found):
            found.append(prompt)
        if len(found) == CLEAR_PROMPTS:
            return stack(found)
    raise NotFound(f"{search.noise.case.name}, {search.noise.dtype}: {len(found)} clear prompts of {LENGTH} tokens, {CLEAR_PROMPTS} wanted")


def _alike(a: Prompts, b: Prompts) -> bool:
    return bool((a.input_ids_BS[0, :ALIKE] == b.input_ids_BS[0, :ALIKE]).all())


def _near_ties(search: Search, clear: Prompts, windows_BS: np.ndarray) -> Prompts:
    """One per clear prompt, in turn, as long as some are wanted."""
    found: list[Prompts] = []
    for prefix_S, window_S in _prefixes(clear, windows_BS):
        prompt = search.near_tie(prefix_S, window_S)
        found += [prompt] if prompt is not None else []
        if len(found) == NEAR_TIES:
            return stack(found)
    raise NotFound(f"{search.noise.case.name}, {search.noise.dtype}: {len(found)} near-ties, {NEAR_TIES} wanted")


def _prefixes(clear: Prompts, windows_BS: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The beginnings of clear prompts, the tie as early as it can be, and text to go on with."""
    for position in range(ALIKE, LENGTH):
        for row, input_ids_S in enumerate(clear.input_ids_BS):
            yield input_ids_S[:position], windows_BS[row]
