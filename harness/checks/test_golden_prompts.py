"""PARITY-08 to PARITY-10: what can be judged of a backend that shows logits, or its likeliest tokens, and nothing else.

Legend: S sequence, V vocabulary, N likeliest tokens.
"""

from __future__ import annotations

import numpy as np

from moe_harness.cases.prompts import CLEAR, TIED_DTYPES, TIES
from moe_harness.implementations.interface import PinnedRouting
from moe_harness.judge import errors as judge
from moe_harness.judge.distance import kl_divergence
from moe_harness.judge.errors import logit_metrics
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict, top_n
from moe_harness.suite.clause import clause
from moe_harness.suite.golden_prompts import batches, likeliest, needs_some_logits, sides, stepwise, stored, whole
from moe_harness.suite.subject import Subject

STEPS = 4  # decoded after the rest of a prompt
TOLD = 8  # likeliest tokens, of a backend that shows all logits


@clause("PARITY-08", "On clear prompts logits equal the oracle's, whatever else is shown", golden=True)
def test_logits_on_clear_prompts(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill")
    needs_some_logits(subject)
    prompts = stored(subject, CLEAR)
    for rows in batches(prompts):
        input_ids_BS = prompts.input_ids_BS[rows]
        observed = [("prefill", whole(subject, input_ids_BS))]
        if "decode" in subject.capabilities.features:
            observed.append(("decode", stepwise(subject, input_ids_BS, input_ids_BS.shape[1] - STEPS)))
        for row in range(len(input_ids_BS)):
            expected_SV = sides(subject, prompts, rows.start + row)[0].logits_SV
            for how, logits_BSV in observed:
                end = slice(-logits_BSV.shape[1], None)
                limits = subject.floors.forward(input_ids_BS[row], at=end)
                verdict.judge(*logit_metrics(logits_BSV[row], expected_SV[end], limits), about=f"{how}, prompt {rows.start + row}")
                verdict.saw(tokens=logits_BSV.shape[1])
    verdict.saw(experts_hit=int(prompts.experts_reached(subject.config.routing.num_experts).sum()))
    verdict.require(tokens=len(prompts), experts_hit=len(subject.config.moe_layers) * subject.config.routing.num_experts)


@clause("PARITY-09", "On clear prompts the likeliest tokens, their order and log-probabilities are the oracle's", golden=True)
def test_likeliest_tokens_on_clear_prompts(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill")
    prompts, n = stored(subject, CLEAR), top_n(subject.capabilities.logits)
    if not n:
        needs_some_logits(subject)
    for rows in batches(prompts):
        input_ids_BS = prompts.input_ids_BS[rows]
        top = likeliest(subject, input_ids_BS, n) if n else judge.likeliest(whole(subject, input_ids_BS), TOLD)
        for row in range(len(input_ids_BS)):
            end = slice(-top.ids_BSN.shape[1], None)
            expected_SV = sides(subject, prompts, rows.start + row)[0].logits_SV[end]
            limits = subject.floors.forward(input_ids_BS[row], at=end)
            found = judge.likeliest_metrics(top.ids_BSN[row], top.log_probs_BSN[row], expected_SV, limits)
            verdict.judge(*found, about=f"prompt {rows.start + row}")
            verdict.saw(tokens=len(expected_SV))
    verdict.require(tokens=len(prompts))


@clause(
    "PARITY-10",
    "Near-ties excuse flips: logits are the oracle's on one side",
    golden=True,
    dtypes=TIED_DTYPES,
)
def test_logits_on_near_ties(subject: Subject, verdict: Verdict) -> None:
    """Which of the two experts is chosen is free; what follows from the choice is not."""
    subject.needs("prefill")
    needs_some_logits(subject)
    prompts = stored(subject, TIES)
    for rows in batches(prompts):
        logits_BSV = whole(subject, prompts.input_ids_BS[rows])
        for row, observed_SV in enumerate(logits_BSV, rows.start):
            end = slice(-len(observed_SV), None)
            expected = [side.logits_SV[end] for side in sides(subject, prompts, row)]
            pinned = [PinnedRouting(ids_LSK) for ids_LSK in prompts.ids_BXLSK[row]]
            limits = [subject.floors.forward(prompts.input_ids_BS[row], pin, end) for pin in pinned]
            judged = [logit_metrics(observed_SV, *side) for side in zip(expected, limits, strict=True)]
            taken = int(np.argmin([metrics[0].value for metrics in judged]))
            verdict.judge(*judged[taken], about=f"prompt {row}, side {taken}")
            verdict.judge(Metric("max_kl_nats", float(kl_divergence(expected[0], observed_SV).max())))
            verdict.saw(tokens=len(observed_SV), flips_excused=taken)
    verdict.require(tokens=len(prompts))
