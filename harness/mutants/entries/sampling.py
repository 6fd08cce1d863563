"""Faults of sampling: lengths, temperature, cuts, seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moe_harness.emulator import outputs
from moe_harness.emulator.numerics import Array, softmax
from moe_harness.emulator.seams import Seams
from moe_harness.implementations.interface import GenerationSpec
from moe_harness.mutants.entry import Fault, change


def one_more(spec: GenerationSpec, S: int, max_length: int) -> int:
    return outputs.steps(spec, S, max_length) + (S + spec.max_new_tokens <= max_length)


def prompt_included(spec: GenerationSpec, S: int, max_length: int) -> int:
    return max(outputs.steps(spec, S, max_length) - S, 1)


def cut_to_fit(spec: GenerationSpec, S: int, max_length: int) -> int:
    return max(min(spec.max_new_tokens, max_length - S + 1), 0)


def _sample_as(**changes: object) -> Callable[..., Array]:
    def sample(logits_BV: Array, history: list[list[int]], spec: GenerationSpec, rng: np.random.Generator, seams: Seams) -> Array:
        return outputs.sample(logits_BV, history, replace(spec, **changes) if spec.temperature else spec, rng, seams)  # type: ignore[arg-type]

    return sample


def temperature_twice(logits_BV: Array, history: list[list[int]], spec: GenerationSpec, rng: np.random.Generator, seams: Seams) -> Array:
    return outputs.sample(logits_BV, history, replace(spec, temperature=spec.temperature**2), rng, seams)


def temperature_multiplies(
    logits_BV: Array, history: list[list[int]], spec: GenerationSpec, rng: np.random.Generator, seams: Seams
) -> Array:
    inverse = 1 / spec.temperature if spec.temperature else 0.0
    return outputs.sample(logits_BV, history, replace(spec, temperature=inverse), rng, seams)


def one_token_fewer(logits_BV: Array, spec: GenerationSpec) -> Array:
    return outputs.keep_likely(logits_BV, replace(spec, top_k=max(spec.top_k - 1, 1) if spec.top_k else 0))


def one_token_more(logits_BV: Array, spec: GenerationSpec) -> Array:
    return outputs.keep_likely(logits_BV, replace(spec, top_k=spec.top_k + 1 if spec.top_k else 0))


def without_the_crossing_token(logits_BV: Array, spec: GenerationSpec) -> Array:
    return _cut(logits_BV, spec, lambda reached_BV: reached_BV <= spec.top_p)


def one_beyond_the_crossing_token(logits_BV: Array, spec: GenerationSpec) -> Array:
    def keep(reached_BV: Array) -> Array:
        return np.pad(reached_BV < spec.top_p, ((0, 0), (2, 0)), constant_values=True)[:, :-2]

    return _cut(logits_BV, spec, keep)


def _cut(logits_BV: Array, spec: GenerationSpec, keep: Callable[[Array], Array]) -> Array:
    """`keep` sees the cumulative probability, the token itself included, by falling probability; the first token always stays."""
    kept_BV = outputs.keep_likely(logits_BV, replace(spec, top_p=1.0))
    if spec.top_p == 1:
        return kept_BV
    order_BV = np.argsort(-kept_BV, axis=-1, kind="stable")
    stays_BV = keep(np.cumsum(softmax(np.take_along_axis(kept_BV, order_BV, axis=-1)), axis=-1))
    stays_BV[:, 0] = True
    dropped_BV = np.empty_like(stays_BV)
    np.put_along_axis(dropped_BV, order_BV, ~stays_BV, axis=-1)
    return np.where(dropped_BV, np.float32(-np.inf), kept_BV)


def top_p_of_all(logits_BV: Array, spec: GenerationSpec) -> Array:
    """Both cuts are made on the full distribution: top_p does not see what top_k left."""
    by_k, by_p = (outputs.keep_likely(logits_BV, replace(spec, **off)) for off in ({"top_p": 1.0}, {"top_k": 0}))
    return np.minimum(by_k, by_p)


def top_p_ignored(logits_BV: Array, spec: GenerationSpec) -> Array:
    return outputs.keep_likely(logits_BV, replace(spec, top_p=1.0))


def one_number_for_all_rows(probabilities_BV: Array, rng: np.random.Generator) -> Array:
    return outputs.invert(probabilities_BV, np.full((len(probabilities_BV), 1), rng.random()))


def sum_of_two_numbers(probabilities_BV: Array, rng: np.random.Generator) -> Array:
    """A mean of two uniform numbers is not uniform: the middle of the distribution is drawn too often."""
    return outputs.invert(probabilities_BV, rng.random((len(probabilities_BV), 2)).mean(axis=1, keepdims=True))


def coarse_number(probabilities_BV: Array, rng: np.random.Generator) -> Array:
    """A random byte over 256: rare tokens between two steps are never drawn, others too often."""
    return outputs.invert(probabilities_BV, rng.integers(0, 16, (len(probabilities_BV), 1)) / 16)


LENGTHS: tuple[Fault, ...] = (
    Fault("one-token-more", "The token of the prefill is not counted.", None, change(steps=one_more), ("GEN-03",)),
    Fault("prompt-counted-in-new-tokens", "max_new_tokens is taken for the length with the prompt.",
          None, change(steps=prompt_included), ("GEN-03",)),
    Fault("generation-cut-to-fit", "What exceeds max_length is cut off without a word.",
          None, change(steps=cut_to_fit), ("GEN-03",), trigger="more new tokens than the cache holds"),
)  # fmt: skip

TEMPERATURE: tuple[Fault, ...] = (
    Fault("temperature-ignored", "The temperature only switches sampling on.",
          None, change(sample=_sample_as(temperature=1.0)), ("GEN-04",)),
    Fault("temperature-twice", "Logits are divided by the temperature, and the sampler divides again.",
          None, change(sample=temperature_twice), ("GEN-04",)),
    Fault("temperature-multiplies", "Logits are multiplied by the temperature.", None, change(sample=temperature_multiplies), ("GEN-04",)),
    Fault("random-numbers-not-uniform", "The mean of two random numbers is used: tokens in the middle come too often.",
          None, change(draw=sum_of_two_numbers), ("GEN-04",)),
    Fault("random-numbers-coarse", "Random numbers have four bits.", None, change(draw=coarse_number), ("GEN-04",)),
    Fault("one-random-number-for-all-rows", "All rows of a batch draw with the same number.",
          None, change(draw=one_number_for_all_rows), ("GEN-04",), families=("dots1", "olmoe")),
)  # fmt: skip

CUTS: tuple[Fault, ...] = (
    Fault("top-k-one-fewer", "A strict comparison with the k-th logit.", None, change(keep_likely=one_token_fewer), ("GEN-05",)),
    Fault("top-k-one-more", "The (k + 1)-th logit is the limit.", None, change(keep_likely=one_token_more), ("GEN-05",)),
    Fault("top-p-one-fewer", "The token that crosses top_p is dropped.", None, change(keep_likely=without_the_crossing_token), ("GEN-05",)),
    Fault("top-p-one-more", "One token beyond the crossing one stays.",
          None, change(keep_likely=one_beyond_the_crossing_token), ("GEN-05",)),
    Fault("top-p-before-top-k", "top_p is measured on the full distribution instead of what top_k left.",
          None, change(keep_likely=top_p_of_all), ("GEN-05",), trigger="top_k and top_p together"),
    Fault("top-p-ignored", "top_p is accepted and not used.", None, change(keep_likely=top_p_ignored), ("GEN-05",)),
)  # fmt: skip

SEEDS: tuple[Fault, ...] = (
    Fault("seed-ignored", "The generator takes fresh entropy each time.",
          None, change(generator=lambda seed: np.random.default_rng()), ("GEN-06",)),
    Fault("seed-fixed", "The generator is always seeded with 0.",
          None, change(generator=lambda seed: np.random.default_rng(0)), ("GEN-06",)),
)  # fmt: skip

FAULTS = LENGTHS + TEMPERATURE + CUTS + SEEDS
