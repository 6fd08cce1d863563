"""Small checkpoints that bring out one behaviour, made once per session. Legend: T tokens, E experts, D hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from moe_harness.cases.cases import Case
from moe_harness.cases.synthetic import small, synthesize
from moe_harness.cases.tensors import round_to
from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.writer import write_checkpoint
from moe_harness.implementations.families.weights import scatter
from moe_harness.implementations.interface import ModelConfig
from moe_harness.suite.subject import Subject

Tensors = dict[str, np.ndarray]


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
