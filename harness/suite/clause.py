"""`@clause(id, title)` ties a check to its clause in docs/spec.md."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from moe_harness.implementations import families
from moe_harness.implementations.interface import ModelConfig, RoutingSpec

MODELS, ROUTERS = "models", "routers"
LOGIC = ("float32",)  # for clauses about logic, which no rounding touches: asking them in every dtype would say the same again


def clause(
    identity: str,
    title: str,
    *,
    dtypes: tuple[str, ...] = (),
    golden: bool = False,
    about: tuple[str, ...] = (MODELS,),
    when: Callable[[RoutingSpec], bool] | None = None,
    family: Callable[[families.Family], bool] | None = None,
) -> pytest.MarkDecorator:
    """`dtypes`: the only dtypes in which the clause is judged (default: those of the run). `golden`: needs HF's outputs, so it is not asked
    of a user's own checkpoint. `about`: models, and routers by themselves (`RouterCase`). `when`: the routings, `family`: the families that
    the clause is about."""
    return pytest.mark.clause(identity, title, dtypes=dtypes, golden=golden, about=about, when=when, family=family)


def concerns(limits: dict, case: object) -> bool:
    """Whether a clause with these keyword arguments is about a case."""
    spec, config = getattr(case, "spec", None), getattr(case, "config", None)
    if (ROUTERS if spec else MODELS) not in limits["about"] or (limits["golden"] and getattr(case, "golden", None) is None):
        return False
    if limits["when"] and not limits["when"](spec or config.routing):  # type: ignore[union-attr]
        return False
    return not limits["family"] or isinstance(config, ModelConfig) and limits["family"](families.family(config.family))
