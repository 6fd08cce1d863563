"""Which cases a clause is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moe_harness.cases.cases import Case, RouterCase, golden_cases, router_cases
from moe_harness.suite.clause import clause, concerns
from moe_harness.suite.situations import has_window


def limits(**arguments: Any) -> dict[str, Any]:
    return dict(clause("X-01", "title", **arguments).kwargs)


def names(**arguments: Any) -> list[str]:
    cases: list[Case | RouterCase] = [*golden_cases(), *router_cases()]
    return [case.name for case in cases if concerns(limits(**arguments), case)]


def test_models_unless_routers_are_asked_for() -> None:
    assert "deepseek_v3" not in names() and "mixtral" in names()
    assert names(about=("routers",)) == ["deepseek_v3", "gpt_oss"]
    assert set(names(about=("models", "routers"))) == {*names(), "deepseek_v3", "gpt_oss"}


def test_a_clause_about_a_routing_or_a_family_leaves_the_others_out() -> None:
    both = ("models", "routers")
    assert "gpt_oss" not in names(about=both, when=lambda spec: spec.correction_bias)
    assert "deepseek_v3" in names(about=both, when=lambda spec: spec.correction_bias)
    assert set(names(family=has_window)) <= {"mixtral", "qwen3_moe"}
    assert names(about=both, family=has_window) == names(family=has_window)


def test_a_golden_clause_is_not_asked_of_a_users_checkpoint(tmp_path: Path) -> None:
    golden = golden_cases()[0]
    assert concerns(limits(golden=True), golden)
    assert not concerns(limits(golden=True), Case("mine", golden.checkpoint))


@pytest.mark.parametrize("case", router_cases(), ids=lambda case: case.name)
def test_router_cases_have_the_true_size(case: Any) -> None:
    assert (case.spec.num_experts, case.spec.top_k) in {(256, 8), (32, 4)}
