"""Hypothesis strategies and the two ways of running them: deterministic (CI) and thorough (nightly). Legend: T tokens, E experts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from moe_harness.cases.near_ties import Wish
from moe_harness.cases.synthetic import small
from moe_harness.implementations import families
from moe_harness.implementations.interface import ModelConfig

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


GAPS, LEVELS = (0.0, 0.5, 1.0, 2.0, 8.0), (0.0, 1.25, -1.25)  # no power of two, where the dtype's grid changes
BITS = {"float32": 24, "bfloat16": 8, "float16": 11}  # of the significand
# Logits so many units in the last place apart. A float32 softmax does not tell float32 logits apart that are only one away.
STEPS = {"float32": (4096, 64), "bfloat16": (1, 2), "float16": (1, 2)}


def wishes(num_experts: int, tokens: int = 32) -> st.SearchStrategy[Wish]:
    """What boundary states shall look like: which two experts stand at the boundary, how far apart in units of the allowance, at which
    logit. Shrinks to four tokens, the first two experts, ties at zero."""
    pair = st.tuples(st.integers(0, num_experts - 1), st.integers(1, num_experts - 1))
    token = st.tuples(pair, st.sampled_from(GAPS), st.sampled_from(LEVELS))
    return st.lists(token, min_size=4, max_size=tokens).map(lambda drawn: _wish(drawn, num_experts))


def _wish(drawn: list[Any], num_experts: int) -> Wish:
    leader, offset = (np.array([token[0][i] for token in drawn]) for i in (0, 1))
    gap, level = (np.array([token[i] for token in drawn]) for i in (1, 2))
    return Wish(leader, (leader + offset) % num_experts, gap, level)


@st.composite
def close_logits(draw: st.DrawFn, num_experts: int, top_k: int, dtype: str, tokens: int = 4) -> np.ndarray:
    """Logits (T, E) whose K-th and next are neighbours among the values of `dtype`, or nearly so, of any size from 2^-6 to 8 and either
    sign; the others, multiples of a sixteenth, are at least a quarter away. All are exact in `dtype`."""
    rows = []
    for _ in range(draw(st.integers(1, tokens))):
        bits, exponent = BITS[dtype], draw(st.integers(-6, 2))
        significand = draw(st.integers(2 ** (bits - 1), 2**bits - 1 - max(STEPS[dtype])))
        pair = np.ldexp(np.array([significand, significand + draw(st.sampled_from(STEPS[dtype]))], np.float64), exponent - bits + 1)
        pair = -pair if draw(st.booleans()) else pair[::-1]
        distance_E = np.arange(num_experts) - top_k + 0.5  # of ranks, from the boundary
        ranked_E = np.round(16 * pair[0]) / 16 - np.sign(distance_E) * 0.25 * np.floor(np.abs(distance_E) + 1)
        ranked_E[top_k - 1 : top_k + 1] = pair
        rows.append(ranked_E[np.array(draw(st.permutations(range(num_experts))))])
    return np.array(rows, np.float32)


@st.composite
def capacity_edges(draw: st.DrawFn, num_experts: int, top_k: int) -> list[list[int]]:
    """Chosen experts (T, K): one expert gets as many tokens as a capacity of f T K / E would let in, or one more or fewer; the others share
    the rest evenly."""
    tokens, busy = draw(st.integers(8, 40)), draw(st.integers(0, num_experts - 1))
    capacity = math.ceil(draw(st.sampled_from([1.0, 1.25, 1.5, 2.0])) * tokens * top_k / num_experts)
    load = min(tokens, capacity + draw(st.sampled_from([1, 0, -1])))
    others = itertools.cycle(e for e in range(num_experts) if e != busy)
    return [[busy] * (t < load) + [next(others) for _ in range(top_k - (t < load))] for t in range(tokens)]


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
