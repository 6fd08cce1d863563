"""GEN: sampling and lengths of generation. Legend: B batch, V vocabulary."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from scipy.special import softmax

from moe_harness.implementations.interface import GenerationSpec
from moe_harness.judge.distance import chi_square
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.oracle.outputs import sampling_distribution
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.judgements import refuses
from moe_harness.suite.subject import MAX_BATCH, MAX_LENGTH, Subject

PROMPT, CALLS = 12, 40
IMPLAUSIBLE = 6.0  # -log10 p: one honest run in a million looks as unlikely


@clause("GEN-03", "As many tokens as asked for come, and no more than the cache holds are promised", dtypes=LOGIC)
def test_generation_obeys_its_lengths(subject: Subject, verdict: Verdict) -> None:
    generator, prompts_BS = subject.generator(), subject.case.prompts_BS[:2, :PROMPT].copy()
    lengths_B = np.full(2, PROMPT)
    for count in (1, 2, 7, MAX_LENGTH - PROMPT):
        rows = generator.generate(prompts_BS, lengths_B, GenerationSpec(count, eos_token_ids=()))
        wrong = abs(len(rows) - len(prompts_BS)) + sum(len(row) != count for row in rows)
        verdict.judge(Metric("rows_of_wrong_length", wrong, 0), about=f"{count} asked for")
        verdict.saw(tokens=sum(map(len, rows)))
    too_many = GenerationSpec(MAX_LENGTH - PROMPT + 2, eos_token_ids=())
    refuses(verdict, f"{too_many.max_new_tokens} new tokens", lambda: generator.generate(prompts_BS, lengths_B, too_many))
    refuses(verdict, "temperature -1", lambda: generator.generate(prompts_BS, lengths_B, GenerationSpec(2, temperature=-1.0)))
    verdict.require(tokens=64, refused=2)


@clause("GEN-04", "Samples follow the softmax of the logits over the temperature", dtypes=LOGIC)
def test_samples_follow_the_softmax(subject: Subject, verdict: Verdict) -> None:
    for temperature in (1.0, 2.5):
        _judge(subject, verdict, GenerationSpec(1, temperature=temperature, eos_token_ids=()))
    verdict.require(samples=500)


@clause("GEN-05", "top_k and top_p keep the likeliest tokens, renormalised, and no others", dtypes=LOGIC)
def test_truncated_sampling(subject: Subject, verdict: Verdict) -> None:
    """top_p keeps the smallest set of likeliest tokens whose probability reaches it (Holtzman et al. 2019)."""
    for spec in (GenerationSpec(1, 2.0, top_k=3), GenerationSpec(1, 2.0, top_p=0.6), GenerationSpec(1, 2.0, top_k=8, top_p=0.5)):
        _judge(subject, verdict, spec)
    verdict.require(samples=500)


@clause("GEN-06", "The same seed gives the same ids, another seed others", dtypes=LOGIC)
def test_seeds_decide(subject: Subject, verdict: Verdict) -> None:
    generator, prompts_BS = subject.generator(), subject.case.prompts_BS[:2, :PROMPT].copy()

    def run(seed: int) -> list[list[int]]:
        return generator.generate(prompts_BS, np.full(2, PROMPT), GenerationSpec(16, 1.5, seed=seed, eos_token_ids=()))

    verdict.judge(Metric("changed_by_repeating", int(run(1) != run(1)), 0), Metric("unchanged_by_the_seed", int(run(1) == run(2)), 0))
    alike = _draws(subject, prompts_BS[0], GenerationSpec(12, 2.5), calls=1)
    verdict.judge(Metric("all_rows_alike", int(len(set(map(tuple, alike))) == 1), 0), about=f"rows with one prompt: {alike}")
    verdict.saw(tokens=64 + sum(map(len, alike)))
    verdict.require(tokens=64)


def _judge(subject: Subject, verdict: Verdict, spec: GenerationSpec) -> None:
    """The first token of many rows with one prompt, under many seeds."""
    subject.needs("generate")
    prompt_S, logits_V = _least_certain(subject)
    expected_V = sampling_distribution(logits_V, spec)
    seen = Counter(row[0] for row in _draws(subject, prompt_S, spec, CALLS))
    observed_V = np.array([seen[token] for token in range(len(expected_V))])
    outside = int(observed_V[expected_V == 0].sum())
    surprise = -np.log10(max(chi_square(observed_V, expected_V), 1e-300))
    verdict.judge(Metric("tokens_not_to_be_drawn", outside, 0), Metric("implausibility", surprise, IMPLAUSIBLE), about=str(spec))
    verdict.saw(samples=int(observed_V.sum()))


def _least_certain(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """(prompt, the oracle's logits_V after it) whose likeliest next token is the least likely: where one token takes all, hardly any fault
    of a sampler shows."""
    prompts = [row[:PROMPT] for row in subject.case.prompts_BS]
    logits = [subject.case.oracle.forward(prompt_S).logits_SV[-1] for prompt_S in prompts]
    return min(zip(prompts, logits, strict=True), key=lambda pair: float(softmax(pair[1]).max()))


def _draws(subject: Subject, prompt_S: np.ndarray, spec: GenerationSpec, calls: int) -> list[list[int]]:
    """Rows of as many calls as seeds, all with the same prompt."""
    generator, prompts_BS = subject.generator(), np.tile(prompt_S, (MAX_BATCH, 1))
    lengths_B = np.full(MAX_BATCH, len(prompt_S))
    runs = (generator.generate(prompts_BS, lengths_B, replace(spec, seed=seed, eos_token_ids=())) for seed in range(calls))
    return [row for rows in runs for row in rows]
