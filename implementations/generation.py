"""Generation: prefill, then one token per row and step until every row has ended."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np

from implementations.interface import GenerationSpec, InvalidInput, Model, ModelConfig, Request
from implementations.sampling import check_spec, pick

Prompt = Tuple[np.ndarray, np.ndarray, str]  # ids_BS, lengths_B, padding side: checked


def generate(model: Model, config: ModelConfig, max_length: int, prompt: Prompt, spec: GenerationSpec) -> List[List[int]]:
    """New ids per row, the EOS that ended it included. The last new token never enters the cache, so it needs no room there."""
    ids_BS, lengths_B, padding = prompt
    check_spec(spec)
    if lengths_B.max() + spec.max_new_tokens - 1 > max_length:
        raise InvalidInput(f"{lengths_B.max()} + {spec.max_new_tokens} - 1 positions, loaded with max_length {max_length}")
    eos = config.eos_token_ids if spec.eos_token_ids is None else spec.eos_token_ids
    model.reset()
    try:
        return _loop(model, model.prefill(ids_BS, lengths_B, Request(padding=padding)).logits_BSV, spec, eos)
    finally:
        model.reset()


def _loop(model: Model, logits_BSV: np.ndarray | None, spec: GenerationSpec, eos: Tuple[int, ...]) -> List[List[int]]:
    """A row that ended is fed its last token; each row draws from a stream of its own, so that this leaves the others' draws alone."""
    assert logits_BSV is not None
    streams = [np.random.default_rng((spec.seed, row)) for row in range(len(logits_BSV))]
    rows: List[List[int]] = [[] for _ in streams]
    for step in range(spec.max_new_tokens):
        for row, logits_SV, stream in zip(rows, logits_BSV, streams, strict=True):
            if not _ended(row, eos):
                row.append(pick(logits_SV[-1], spec, stream))
        if step + 1 == spec.max_new_tokens or all(_ended(row, eos) for row in rows):
            break
        logits_BSV = model.decode(np.array([row[-1] for row in rows]), Request()).logits_BSV
        assert logits_BSV is not None
    return rows


def _ended(row: List[int], eos: Tuple[int, ...]) -> bool:
    return bool(row) and row[-1] in eos
