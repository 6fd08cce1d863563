"""Faults of generation: which token comes next, and where a row ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moe_harness.emulator import outputs
from moe_harness.emulator.numerics import Array
from moe_harness.emulator.seams import Seams
from moe_harness.implementations.interface import GenerationSpec, ModelConfig
from moe_harness.mutants.entry import GITHUB, Fault, change


def stop_at_first_eos(config: ModelConfig, spec: GenerationSpec) -> frozenset[int]:
    return frozenset((config.eos_token_ids if spec.eos_token_ids is None else spec.eos_token_ids)[:1])


def stop_at_eos_in_prompt(ids_B: Array, history: Sequence[list[int]], stop: frozenset[int], before_B: Array) -> Array:
    return before_B | np.array([bool(stop & set(row)) for row in history])


def stop_with_first_row(ids_B: Array, history: Sequence[list[int]], stop: frozenset[int], before_B: Array) -> Array:
    return np.full(len(ids_B), outputs.ended(ids_B, history, stop, before_B).any())


def never_cold(logits_BV: Array, history: Sequence[list[int]], spec: GenerationSpec, rng: np.random.Generator, seams: Seams) -> Array:
    return outputs.sample(logits_BV, history, replace(spec, temperature=spec.temperature or 1.0), rng, seams)


def penalize_repetition(
    logits_BV: Array, history: Sequence[list[int]], spec: GenerationSpec, rng: np.random.Generator, seams: Seams, penalty: float = 1.2
) -> Array:
    changed_BV = logits_BV.copy()
    for row, ids in enumerate(history):
        seen = np.unique(ids)
        changed_BV[row, seen] = np.where(changed_BV[row, seen] > 0, changed_BV[row, seen] / penalty, changed_BV[row, seen] * penalty)
    return outputs.sample(changed_BV, history, spec, rng, seams)


def whole_rows(lengths_B: Array, length: int) -> Array:
    return np.full_like(lengths_B, length)


def only_asked_eos(config: ModelConfig, spec: GenerationSpec) -> frozenset[int]:
    return frozenset(spec.eos_token_ids or ())


FAULTS: tuple[Fault, ...] = (
    Fault("own-eos-ignored", "Without EOS ids in the request none stops a row: the checkpoint's are not looked at.",
          None, change(stop_ids=only_asked_eos), ("GEN-02",)),
    Fault("generation-takes-pads-for-text", "The prompt's lengths are not handed on: pads are continued.",
          None, change(prompt_lengths=whole_rows), ("GEN-07",), trigger="a ragged batch"),
    Fault("temperature-0-is-falsy", "`temperature or 1.0`: greedy decoding samples.", None, change(sample=never_cold), ("GEN-01",)),
    Fault("repetition-penalty-by-default", "A repetition penalty of 1.2 (Keskar et al. 2019) that nobody asked for.",
          None, change(sample=penalize_repetition), ("GEN-01",), trigger="a continuation that repeats a token by a small lead"),
    Fault("mlxvlm-2112-eos-replace", "Of several EOS ids only the first stops a row.",
          f"{GITHUB}/Blaizzy/mlx-vlm/pull/2112", change(stop_ids=stop_at_first_eos), ("GEN-02",),
          trigger="two EOS ids, the second one generated"),
    Fault("eos-in-prompt-stops", "The stop test looks at the prompt too.",
          None, change(ended=stop_at_eos_in_prompt), ("GEN-02",), trigger="a prompt that holds an EOS id"),
    Fault("batch-stops-with-first-row", "The first row that ends stops the others.",
          None, change(ended=stop_with_first_row), ("GEN-02",), trigger="two rows that end at different steps"),
)  # fmt: skip
