"""GEN: greedy generation. Legend: B batch, S sequence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moe_harness.implementations.interface import GenerationSpec
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.drivers import valid
from moe_harness.suite.situations import ragged, rewritten
from moe_harness.suite.subject import Subject

SMALLEST_LEAD = 1e-3  # logits between the best and the second-best token below which float32 may honestly choose either


@clause("GEN-01", "Greedy ids equal HF's", dtypes=("float32",), golden=True)
def test_greedy_ids_equal_hf(subject: Subject, verdict: Verdict) -> None:
    generator, expected = subject.generator(), subject.case.expected
    prompts_BS, ids_BS, lead_BS = expected["greedy_prompts_BS"], expected["greedy_ids_BS"], expected["greedy_lead_BS"]
    spec = GenerationSpec(max_new_tokens=ids_BS.shape[1], eos_token_ids=())
    rows = generator.generate(prompts_BS, np.full(len(prompts_BS), prompts_BS.shape[1]), spec)
    assert len(rows) == len(prompts_BS), f"{len(prompts_BS)} rows in, {len(rows)} out"
    for b, row in enumerate(rows):
        clear = int(np.argmax(np.append(lead_BS[b] < SMALLEST_LEAD, True)))
        wrong = int(np.sum(np.array(row[:clear]) != ids_BS[b, : len(row[:clear])])) + max(0, clear - len(row))
        verdict.judge(Metric("wrong_ids", wrong, 0), about=f"row {b}: expected {ids_BS[b].tolist()}, got {row}")
        verdict.saw(tokens=clear)
    verdict.require(tokens=64)


@clause("GEN-02", "Generation stops at any EOS of the list, includes it, and stops nowhere else", dtypes=("float32",))
def test_generation_stops_at_eos(subject: Subject, verdict: Verdict) -> None:
    generator, prompts_BS = subject.generator(), subject.case.prompts_BS[:, :16].copy()
    lengths_B = np.full(len(prompts_BS), prompts_BS.shape[1])
    free = generator.generate(prompts_BS, lengths_B, GenerationSpec(12, eos_token_ids=()))
    verdict.judge(Metric("rows_ended_without_eos", sum(len(row) != 12 for row in free), 0))
    unused = next(t for t in range(subject.config.vocab_size) if all(t not in row for row in free))
    for stop in sorted({row[6] for row in free}):
        stopped = generator.generate(prompts_BS, lengths_B, GenerationSpec(12, eos_token_ids=(unused, stop)))
        wrong = sum(row != _until(whole, stop) for row, whole in zip(stopped, free, strict=True))
        verdict.judge(Metric("rows_not_ended_at_eos", wrong, 0), about=f"EOS list {(unused, stop)}: free {free}, stopped {stopped}")
        verdict.saw(stops=sum(stop in row for row in free))
        own = rewritten(subject, f"eos-{stop}", lambda tensors: tensors, replace(subject.config, eos_token_ids=(unused, stop)))
        by_config = own.generator().generate(prompts_BS, lengths_B, GenerationSpec(12))
        verdict.judge(Metric("rows_not_ended_at_own_eos", int(by_config != stopped), 0), about=f"config {(unused, stop)}: {by_config}")
    verdict.require(stops=1)


@clause("GEN-07", "In a ragged batch every row is continued as it is alone", dtypes=LOGIC)
@pytest.mark.parametrize("padding", ["right", "left"])
def test_ragged_rows_are_continued_as_alone(subject: Subject, verdict: Verdict, padding: str) -> None:
    subject.needs(f"{padding}_padding")
    generator, (input_ids_BS, lengths_B, _) = subject.generator(), ragged(subject, padding)
    spec = GenerationSpec(6, eos_token_ids=())
    together = generator.generate(input_ids_BS, lengths_B, spec, padding)
    assert len(together) == len(lengths_B), f"{len(lengths_B)} rows in, {len(together)} out"
    for b, length in enumerate(lengths_B):
        prompt_S = input_ids_BS[b, valid(input_ids_BS.shape[1], int(length), padding)]
        (alone,) = generator.generate(prompt_S[None].copy(), np.array([length]), spec)
        clear = _clear(subject, [*prompt_S.tolist(), *alone], len(alone))
        wrong = int(together[b][:clear] != alone[:clear])
        verdict.judge(
            Metric("rows_continued_otherwise", wrong, 0),
            about=f"row {b} of {lengths_B.tolist()}, {padding}: alone {alone}, together {together[b]}",
        )
        verdict.saw(tokens=clear)
    verdict.require(tokens=12)


def _clear(subject: Subject, tokens: list[int], new: int) -> int:
    """How many of the last `new` tokens come before the first one whose lead over the second best is small."""
    ranked = np.sort(subject.case.oracle.forward(tokens[:-1]).logits_SV[-new:], axis=-1)
    return int(np.argmax(np.append(ranked[:, -1] - ranked[:, -2] < SMALLEST_LEAD, True)))


def _until(row: list[int], stop: int) -> list[int]:
    return row[: row.index(stop) + 1] if stop in row else row
