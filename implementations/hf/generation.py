"""Generation by transformers' own `generate`, in terms of a GenerationSpec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from moe_harness.implementations.hf.inputs import Chunk
from moe_harness.implementations.hf.quiet import quiet
from moe_harness.implementations.interface import GenerationSpec


def generate(module: PreTrainedModel, chunk: Chunk, spec: GenerationSpec, eos: tuple[int, ...], pad: int | None) -> list[list[int]]:
    """New ids per row, cut after the first of `eos`. Prompts are moved to the right edge: transformers continues from the last column.

    `pad` only fills rows that have ended, behind what is returned; None: id 0.
    """
    ids_BS, valid_BS = right_aligned(chunk)
    prompt = {"input_ids": ids_BS, "attention_mask": valid_BS.astype(np.int64)}
    on_device = {name: torch.from_numpy(np.ascontiguousarray(array)).to(module.device) for name, array in prompt.items()}
    with torch.inference_mode(), quiet(), seeded(spec.seed, module.device):
        sequences = module.generate(**on_device, generation_config=_config(spec, eos, 0 if pad is None else pad))
    return [_until_eos(row, eos) for row in sequences[:, ids_BS.shape[1] :].tolist()]


def right_aligned(chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """(ids_BS, valid_BS) with each row's valid tokens, in order, at the end. S shrinks to the longest row."""
    order_BS = np.argsort(chunk.valid_BS, axis=1, kind="stable")  # False before True; stable keeps the order of the tokens
    longest = int(chunk.valid_BS.sum(axis=1).max())
    moved = (np.take_along_axis(array, order_BS, axis=1)[:, -longest:] for array in (chunk.ids_BS, chunk.valid_BS))
    ids_BS, valid_BS = moved
    return ids_BS, valid_BS


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """transformers samples from torch's global generator: seed it for this block and put its state back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _config(spec: GenerationSpec, eos: tuple[int, ...], pad: int) -> GenerationConfig:
    choice: dict[str, Any] = {"do_sample": False}
    if spec.temperature:
        choice = {"do_sample": True, "temperature": spec.temperature, "top_k": spec.top_k, "top_p": spec.top_p}
    return GenerationConfig(max_new_tokens=spec.max_new_tokens, eos_token_id=list(eos) or None, pad_token_id=pad, **choice)


def _until_eos(row: list[int], eos: tuple[int, ...]) -> list[int]:
    ends = [i for i, token in enumerate(row) if token in eos]
    return row[: ends[0] + 1] if ends else row
