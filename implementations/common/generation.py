"""Generation: a prompt, then one token per row and step until every row has ended. Tokens are chosen on the host in float64, the same draw
on every device."""

from __future__ import annotations

from typing import List, Protocol, Tuple

import numpy as np

from moe_harness.implementations.interface import GenerationSpec, InvalidInput, Model, ModelConfig, Request

Prompt = Tuple[np.ndarray, np.ndarray, str]  # ids_BS, lengths_B, padding side: checked


def check_spec(spec: GenerationSpec) -> None:
    """Raises InvalidInput."""
    if spec.max_new_tokens < 1:
        raise InvalidInput(f"max_new_tokens must be at least 1, got {spec.max_new_tokens}")
    if not (spec.temperature >= 0 and np.isfinite(spec.temperature)):
        raise InvalidInput(f"temperature must be finite and not negative, got {spec.temperature}")
    if spec.top_k < 0 or not 0 < spec.top_p <= 1:
        raise InvalidInput(f"top_k must be >= 0 and top_p in (0, 1], got {spec.top_k} and {spec.top_p}")


def pick(logits_V: np.ndarray, spec: GenerationSpec, rng: np.random.Generator) -> int:
    """Greedy (lowest id among equals) at temperature 0, else a draw from what top_k and then top_p leave of the distribution."""
    if spec.temperature == 0:
        return int(logits_V.argmax())
    order_V = np.argsort(-logits_V, kind="stable")
    probability = _softmax(logits_V[order_V].astype(np.float64) / spec.temperature)
    kept = probability[: spec.top_k or None]
    kept = kept / kept.sum()
    # The smallest set that reaches top_p: a token stays while those before it have not reached it. The first always stays.
    kept = kept[np.concatenate(([0.0], kept.cumsum()[:-1])) < spec.top_p]
    return int(order_V[rng.choice(len(kept), p=kept / kept.sum())])


def _softmax(descending_V: np.ndarray) -> np.ndarray:
    weights_V = np.exp(descending_V - descending_V[0])
    return weights_V / weights_V.sum()


class Steps(Protocol):
    """Chooses a token for every row of a batch, those that have ended included."""

    def begin(self, prompt: Prompt) -> np.ndarray:
        """ids_B behind the prompt."""
        ...

    def go_on(self, ids_B: np.ndarray) -> np.ndarray:
        """ids_B behind these."""
        ...


class OnHost:
    """`Steps` by the model's logits. Each row draws from a stream of its own, so that one that ended leaves the others' draws alone."""

    def __init__(self, model: Model, spec: GenerationSpec, rows: int):
        self._model, self._spec, self._streams = model, spec, streams(spec.seed, rows)

    def begin(self, prompt: Prompt) -> np.ndarray:
        ids_BS, lengths_B, padding = prompt
        return self._pick(self._model.prefill(ids_BS, lengths_B, Request(padding=padding)).logits_BSV)

    def go_on(self, ids_B: np.ndarray) -> np.ndarray:
        return self._pick(self._model.decode(ids_B, Request()).logits_BSV)

    def _pick(self, logits_BSV: np.ndarray | None) -> np.ndarray:
        assert logits_BSV is not None
        return np.array([pick(logits_SV[-1], self._spec, stream) for logits_SV, stream in zip(logits_BSV, self._streams)])


def streams(seed: int, rows: int) -> List[np.random.Generator]:
    """Of random numbers, one for each row."""
    return [np.random.default_rng((seed, row)) for row in range(rows)]


def generate(
    model: Model, config: ModelConfig, max_length: int, prompt: Prompt, spec: GenerationSpec, steps: Steps | None = None
) -> List[List[int]]:
    """New ids per row, the EOS that ended it included. The last new token never enters the cache, so it needs no room there. `steps` None:
    tokens are chosen on the host."""
    _, lengths_B, _ = prompt
    check_spec(spec)
    if lengths_B.max() + spec.max_new_tokens - 1 > max_length:
        raise InvalidInput(f"{lengths_B.max()} + {spec.max_new_tokens} - 1 positions, loaded with max_length {max_length}")
    eos = config.eos_token_ids if spec.eos_token_ids is None else spec.eos_token_ids
    model.reset()
    try:
        return _loop(steps or OnHost(model, spec, len(lengths_B)), prompt, spec.max_new_tokens, eos)
    finally:
        model.reset()


def _loop(steps: Steps, prompt: Prompt, count: int, eos: Tuple[int, ...]) -> List[List[int]]:
    """A row that ended is fed its last token."""
    rows: List[List[int]] = [[] for _ in prompt[1]]
    for step in range(count):
        ids_B = steps.go_on(np.array([row[-1] for row in rows])) if step else steps.begin(prompt)
        for row, token in zip(rows, ids_B):
            if not _ended(row, eos):
                row.append(int(token))
        if all(_ended(row, eos) for row in rows):
            break
    return rows


def _ended(row: List[int], eos: Tuple[int, ...]) -> bool:
    return bool(row) and row[-1] in eos
