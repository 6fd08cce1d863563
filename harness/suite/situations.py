"""Situations that bring out one behaviour: small checkpoints made once per session, the width of sliding windows, and inputs (random ones,
the oracle's hidden states rounded to the candidate's dtype, ragged batches of the case's prompts).

Legend: B batch, S sequence, T tokens, E experts, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from moe_harness.cases.cases import Case
from moe_harness.cases.synthetic import small, synthesize
from moe_harness.cases.tensors import round_to
from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.writer import write_checkpoint
from moe_harness.implementations.families.family import Family
from moe_harness.implementations.families.weights import scatter
from moe_harness.implementations.interface import ModelConfig
from moe_harness.suite.drivers import valid
from moe_harness.suite.subject import Subject

Tensors = dict[str, np.ndarray]
WINDOW = 8
DECODED = 4


def like(subject: Subject, name: str, config: ModelConfig | None = None, router_scale: float | None = 1.0, seed: int = 0) -> Subject:
    """The subject with a small random model of its family (or `config`) for a case."""
    config = config or small(subject.config.family)
    key = f"{name}-{config}-{router_scale}-{seed}"
    return on(subject, subject.workshop.case(name, key, lambda dst: synthesize(config, dst, seed, router_scale)))


def two_layers(family: str, **changes: Any) -> ModelConfig:
    """Two MoE layers: what one layer does to the next one's cache shows."""
    return small(family, **{"num_hidden_layers": 2, "moe_layers": (0, 1), **changes})


def on(subject: Subject, case: Case) -> Subject:
    """The subject in another case, with data of the same seed."""
    return replace(subject, case=case.seeded(subject.case.seed))


def rewritten(subject: Subject, name: str, change: Callable[[Tensors], Tensors], config: ModelConfig | None = None) -> Subject:
    """The subject with its own checkpoint's tensors changed. `change`: canonical tensors in, canonical tensors of `config` out."""
    config = config or subject.config

    def make(dst: object) -> None:
        family, stored = families.family(config.family), not config.tie_word_embeddings
        tensors = change({n: np.array(subject.case.tensor(n)) for n in subject.case.tensor_names()})
        write_checkpoint(str(dst), family.to_hf(config), dict(scatter(family.layout(config, stored), tensors)))

    return on(subject, subject.workshop.case(name, f"{name}-{subject.case.checkpoint}-{config}", make))


def with_nan_embedding(subject: Subject, token: int) -> Subject:
    """The subject with a checkpoint in which the embedding of a token is NaN. A tied head would show the NaN in the token's own logit, so
    it gets weights of its own."""

    def poisoned(tensors: Tensors) -> Tensors:
        tensors.setdefault("lm_head.weight", tensors["embed.weight"].copy())
        tensors["embed.weight"][token] = np.nan
        return tensors

    return rewritten(subject, f"nan-{token}", poisoned, replace(subject.config, tie_word_embeddings=False))


def hidden_states(subject: Subject, tokens: int, seed: int = 0) -> np.ndarray:
    """x_TD of unit scale, exactly representable in the candidate's dtype."""
    x_TD = subject.random(seed).standard_normal((tokens, subject.config.hidden_size), np.float32)
    return round_to(x_TD, subject.dtype)


def excerpts(subject: Subject, rows: int, length: int, seed: int = 1) -> np.ndarray:
    """Token ids (rows, length) cut out of the case's prompts, each row elsewhere: for golden models, text of the kind that bounds were
    measured on (bytes drawn at random lead to hidden states that amplify rounding)."""
    prompts_BS, random = subject.case.prompts_BS, subject.random(seed)
    starts = random.integers(0, prompts_BS.shape[1] - length + 1, rows)
    return np.stack([prompts_BS[row % len(prompts_BS), start : start + length] for row, start in enumerate(starts)])


def text(subject: Subject, rows: int, length: int, seed: int = 1) -> np.ndarray:
    """Random token ids (rows, length), specials left out."""
    return subject.random(seed).integers(0, min(256, subject.config.vocab_size), (rows, length))


def has_window(family: Family) -> bool:
    return "sliding_window" in family.free


def layer_states(subject: Subject) -> Iterator[tuple[int, np.ndarray]]:
    """(MoE layer index, x_TD) for every MoE layer: what its router is given when the oracle runs the case's prompts."""
    subject.needs("probe")
    passes = [subject.case.free_run(row) for row in range(len(subject.case.prompts_BS))]
    for layer in range(len(subject.config.moe_layers)):
        yield layer, round_to(np.concatenate([run.x_LSD[layer] for run in passes]), subject.dtype)


def ragged(subject: Subject, padding: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(padded ids, lengths, the next DECODED tokens of each row). Pads hold a legal token, so only the lengths tell them from text."""
    prompts_BS = subject.case.prompts_BS
    B, S = prompts_BS.shape[0], prompts_BS.shape[1] - DECODED
    lengths_B = np.array([S - 1 - (7 * b) % (S // 2) for b in range(B)])
    lengths_B[0] = S
    padded_BS = np.full((B, S), subject.config.pad_token_id or 0, np.int64)
    for b, length in enumerate(lengths_B):
        padded_BS[b, valid(S, int(length), padding)] = prompts_BS[b, :length]
    following = [prompts_BS[b, length : length + DECODED] for b, length in enumerate(lengths_B)]
    return padded_BS, lengths_B, np.stack(following)
