"""Hypothesis strategies and the two ways of running them: deterministic (CI) and thorough (nightly). Legend: T tokens, E experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from harness.synthetic import small
from implementations import families
from implementations.interface import ModelConfig

EXAMPLES = 20
Explorer = Callable[[Callable[..., None]], None]


def explore(
    thorough: bool, examples: int = EXAMPLES, shrink: bool = True, reseed: int = 0, **strategies: st.SearchStrategy[Any]
) -> Explorer:
    """Runs the decorated function at once on generated keyword arguments: the same examples every time, or with `thorough` twenty times as
    many under fresh seeds. No example database: a failure's smallest example stands in its message. `shrink` False where one example takes
    so long that the first failing one must do. `reseed`: another set of examples, the same every time; 0 is the usual one."""
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    budget = settings(_settings(thorough, examples), phases=phases)

    def run(check: Callable[..., None]) -> None:
        test = given(**strategies)(check)
        budget(seed(reseed)(test) if reseed else test)()

    return run


def _settings(thorough: bool, examples: int) -> settings:
    """One failure is reported as itself: of several, Hypothesis would make a group. No verdict depends on the machine's load."""
    return settings(
        max_examples=examples * (20 if thorough else 1),
        derandomize=not thorough,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def explore_machine(thorough: bool, machine: type[RuleBasedStateMachine], examples: int = EXAMPLES, steps: int = 12) -> None:
    """The same for a state machine: `examples` sequences of at most `steps` calls."""
    budget = settings(_settings(thorough, examples), stateful_step_count=steps)
    run_state_machine_as_test(machine, settings=budget)


def logits(num_experts: int, low: int = -64, high: int = 64, tokens: int = 8, unique: bool = False) -> st.SearchStrategy[np.ndarray]:
    """Router logits (T, E) on the grid of sixteenths, |l| <= 4 by default: exact in bfloat16, also after an integer shift up to 8.
    `unique`: no ties within a token."""
    row = st.lists(st.integers(low, high), min_size=num_experts, max_size=num_experts, unique=unique)
    return st.lists(row, min_size=1, max_size=tokens).map(lambda rows: np.array(rows, np.float32) / 16)


def tied_logits(num_experts: int) -> st.SearchStrategy[np.ndarray]:
    """Logits (T, E) of only three values, so that exact ties cross the selection boundary."""
    row = st.lists(st.sampled_from([-1.0, 0.5, 2.0]), min_size=num_experts, max_size=num_experts)
    return st.lists(row, min_size=1, max_size=8).map(lambda rows: np.array(rows, np.float32))


def shifts() -> st.SearchStrategy[int]:
    """Whole shifts that keep sixteenths up to 4 exact in bfloat16 (8 significant bits: |l + shift| < 16)."""
    return st.integers(-8, 8).filter(bool)


@st.composite
def model_configs(draw: st.DrawFn, family: str) -> ModelConfig:
    """Small legal configs of a family: layers, dense layers, heads, experts, ties and dtypes vary; all dimensions stay different."""
    num_layers = draw(st.integers(1, 3))
    E = draw(st.sampled_from([4, 8, 12]))
    config = small(family, E, draw(st.sampled_from([1, 2, 3, E])))
    config = replace(
        config,
        num_hidden_layers=num_layers,
        num_key_value_heads=draw(st.sampled_from([1, 2, 4, 8])),
        tie_word_embeddings=draw(st.booleans()),
        rope_theta=draw(st.sampled_from([10000.0, 1e6])),
        dtype=draw(st.sampled_from(["float32", "bfloat16", "float16"])),
        moe_layers=tuple(range(num_layers)),
        eos_token_ids=draw(st.sampled_from([(257,), (257, 3)])),
    )
    return _with_options(draw, config)


def _with_options(draw: st.DrawFn, config: ModelConfig) -> ModelConfig:
    """Varies what the family's config.json can say."""
    family, layers = families.family(config.family), config.num_hidden_layers
    free = family.free
    if "dense_layers" in free:
        dense = draw(st.sets(st.integers(0, layers - 1), max_size=layers - 1))
        config = replace(config, moe_layers=tuple(i for i in config.moe_layers if i not in dense))
    if "leading_dense_layers" in free:
        config = replace(config, moe_layers=tuple(range(draw(st.integers(0, layers - 1)), layers)))
    if "attention_bias" in free:
        config = replace(config, attention_bias=draw(st.sampled_from([(), family.bias_parts])))
    if "normalize_topk" in free:
        config = replace(config, routing=replace(config.routing, normalize_topk=draw(st.booleans())))
    return config
