"""Golden prompts, searched token by token. Legend: V vocabulary, B prompts, X sides, L MoE layers, S sequence, K top-k."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat

import numpy as np

from moe_harness.build_golden.noise import Noise
from moe_harness.build_golden.reading import Reading, Tie, margins, read
from moe_harness.cases.prompts import Prompts
from moe_harness.oracle.model import Oracle

TIE = 0.25  # of a typical error: honest implementations fall on either side
HOPELESS = 0.8  # margins below this share of the bound on typical text are not measured
SLACK = 1.2  # by how much a margin must exceed the scouts' noise: all kinds together may show more
PATIENCE = 150  # hopeful tokens tried for one prompt: another stretch of text comes sooner to its end
SURVEYED = 64  # tokens at once
BYTES = 256  # the special tokens above, which a backend may well treat otherwise, are not used


class Exhausted(Exception):
    """The search for one prompt took too long."""


@dataclass
class Search:
    """Finds prompts of one case and dtype. `left`: tokens that may still be tried."""

    noise: Noise
    left: int = PATIENCE

    @property
    def oracle(self) -> Oracle:
        return self.noise.case.oracle

    def clear(self, text: np.ndarray) -> Prompts | None:
        """A clear prompt as long as `text` that keeps to it where it can, and to what the model finds likely where it cannot."""
        return self._within_patience(np.zeros(0, np.int64), text)

    def near_tie(self, prefix_S: np.ndarray, text: np.ndarray) -> Prompts | None:
        """The tokens of a clear prompt, one at which two experts nearly tie, and clear ones up to the length of `text`."""
        for token, layer in self._tying(prefix_S):
            tie = (layer, len(prefix_S))
            if self._is_clear(read(self.oracle, np.append(prefix_S, token), tie)):
                found = self._within_patience(np.append(prefix_S, token), text, tie)
                if found is not None and self._divides(found):
                    return found
        return None

    def _within_patience(self, prefix_S: np.ndarray, text: np.ndarray, tie: Tie | None = None) -> Prompts | None:
        self.left = PATIENCE
        try:
            found = self._extend(prefix_S, text, tie)
        except Exhausted:
            return None
        return found if found is None else self._measured(found)

    def _extend(self, prefix_S: np.ndarray, text: np.ndarray, tie: Tie | None) -> Reading | None:
        """Depth first: the first way of adding clear tokens that reaches the length of `text`."""
        if len(prefix_S) == len(text):
            return read(self.oracle, prefix_S, tie)
        for token, _ in self._surveyed(prefix_S, self._likeliest(prefix_S, int(text[len(prefix_S)])), self._hopeful):
            if self.left == 0:
                raise Exhausted
            self.left -= 1
            longer = np.append(prefix_S, token)
            if self._is_clear(read(self.oracle, longer, tie)) and (found := self._extend(longer, text, tie)):
                return found
        return None

    def _likeliest(self, prefix_S: np.ndarray, wanted: int) -> Iterator[int]:
        """The byte of the text first, then, but for the last byte again, all others as the model might go on: drawn without replacement
        (Gumbel noise on the logits), from a seed that is the text, so that prompts differ. The first byte is any."""
        yield wanted
        logits_V = self.oracle.forward(prefix_S).logits_SV[-1, :BYTES] if len(prefix_S) else np.zeros(BYTES)
        noise_V = np.random.default_rng([*prefix_S, wanted]).gumbel(size=BYTES)
        last = prefix_S[-1:].tolist()
        yield from (int(token) for token in np.argsort(-(logits_V + noise_V), kind="stable") if token not in (wanted, *last))

    def _surveyed(
        self, prefix_S: np.ndarray, tokens: Iterator[int], wanted: Callable[[np.ndarray], bool]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(token, margin_L) of the tokens whose margins are `wanted`, by the float32 subject: it runs many prompts at once and is off by a
        millionth. The oracle then has the say."""
        sizes = chain((1,), repeat(SURVEYED))  # the byte of the text will often do
        while chunk := list(islice(tokens, next(sizes))):
            rows_BS = np.concatenate([np.tile(prefix_S, (len(chunk), 1)), np.array(chunk)[:, None]], axis=1)
            margin_BL = self.noise.margins_after(rows_BS)
            yield from ((token, margin_L) for token, margin_L in zip(chunk, margin_BL, strict=True) if wanted(margin_L))

    def _hopeful(self, margin_L: np.ndarray) -> bool:
        return not (margin_L < HOPELESS * self.noise.factor * self.noise.typical_L).any()

    def _ties(self, margin_L: np.ndarray) -> bool:
        return int((margin_L < TIE * self.noise.typical_L).sum()) == 1

    def _is_clear(self, reading: Reading) -> bool:
        """Whether the last token's margins are clear; those before it do not depend on it. Measured only where there is hope."""
        last_XL = reading.margin_XLS[..., -1]
        if not all(map(self._hopeful, last_XL)):
            return False
        return bool((last_XL > SLACK * self._noise(reading, scouts=True)[..., -1]).all())

    def _noise(self, reading: Reading, scouts: bool = False) -> np.ndarray:
        """noise_XLS: both sides as two rows."""
        rows_XS = np.tile(reading.input_ids_S, (len(reading.sides), 1))
        return self.noise.bound(rows_XS, reading.ids_XLSK.swapaxes(0, 1), scouts).swapaxes(0, 1)

    def _tying(self, prefix_S: np.ndarray) -> Iterator[tuple[int, int]]:
        """(token, MoE layer) for every token after which one layer nearly ties."""
        found = self._surveyed(prefix_S, self._likeliest(prefix_S, ord(" ")), self._ties)
        yield from ((token, int(np.argmin(margin_L / self.noise.typical_L))) for token, margin_L in found)

    def _measured(self, reading: Reading) -> Prompts | None:
        """The prompt with its noise at full length; None if that leaves a margin in doubt after all."""
        noise_XLS, tie = self._noise(reading), reading.tie or (-1, -1)
        gap = np.inf if reading.tie is None else margins(self.oracle, reading.sides[0])[tie]
        found = Prompts(
            reading.input_ids_S[None], reading.ids_XLSK[None], reading.margin_XLS[None], noise_XLS[None], np.array([tie]), np.array([gap])
        )
        return found if found.clearance_B[0] > 1 else None

    def _divides(self, found: Prompts) -> bool:
        """Whether some honest kinds take one side of the near-tie and some the other."""
        ids_NLSK = self.noise.selections(found.input_ids_BS)[:, :, 0]
        first = (ids_NLSK == np.sort(found.ids_BXLSK[0, 0])).all((1, 2, 3))
        return bool(first.any() and not first.all())
