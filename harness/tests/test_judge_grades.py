"""Grades follow from capabilities, and the likeliest tokens are judged as logits are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moe_harness.implementations.interface import Capabilities, TopLogProbs
from moe_harness.judge.errors import likeliest, likeliest_metrics
from moe_harness.judge.limit import Limit
from moe_harness.judge.verdict import grade, top_n
from moe_harness.mutants.catalogue import backend

LIMITS = {"logit_error": Limit(1e-3, 4e-3), "worst_position_error": Limit(2e-3, 8e-3)}
LOGITS_SV = np.random.default_rng(0).standard_normal((6, 40)) * 3


@pytest.mark.parametrize(
    "features, logits, expected",
    [
        (("prefill", "routing", "probe"), ("all", "last"), "A"),
        (("prefill", "routing"), ("all",), "B"),
        (("prefill",), ("last",), "C"),
        (("prefill",), ("top-5", "top-20"), "D"),
        (("router",), ("all", "last"), ""),
        ((), (), ""),
    ],
)
def test_grades(features, logits, expected):
    assert grade(Capabilities(features, (), (), logits=logits)) == expected


def test_backends_of_the_catalogue():
    assert [grade(backend(name).capabilities()) for name in (None, "logits-alone", "tokens-alone")] == ["A", "C", "D"]


def test_top_n():
    assert top_n(("all", "top-5", "top-20", "top-many")) == 20 and top_n(("all", "last")) == 0


def violated(top: TopLogProbs) -> set[str]:
    return {metric.name for metric in likeliest_metrics(top.ids_BSN, top.log_probs_BSN, LOGITS_SV, LIMITS) if metric.violated}


def test_likeliest_tokens_are_judged():
    top = likeliest(LOGITS_SV, 5)
    assert violated(top) == set()
    assert violated(likeliest(LOGITS_SV + 1e-3 * np.random.default_rng(1).standard_normal(LOGITS_SV.shape), 5)) == set()
    assert violated(replace(top, log_probs_BSN=top.log_probs_BSN + 0.5)) == {"log_prob_error", "worst_log_prob_error"}
    assert violated(replace(top, log_probs_BSN=top.log_probs_BSN * np.nan)) >= {"log_prob_error", "not_likeliest_first"}
    assert violated(TopLogProbs(top.ids_BSN[:, ::-1], top.log_probs_BSN[:, ::-1])) == {"wrong_order", "not_likeliest_first"}
    more = likeliest(LOGITS_SV, 6)
    assert violated(TopLogProbs(more.ids_BSN[:, 1:], more.log_probs_BSN[:, 1:])) == {"missing_tokens"}
    assert violated(replace(top, ids_BSN=np.where(np.arange(5) == 4, 40, top.ids_BSN))) == {"ids_out_of_range"}
