"""`--pair A B` as pytest options and a fixture. What a pair is and how it is timed: moe_harness.bench.pairing."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from moe_harness.run import outcome
from moe_harness.suite.options import spec_of

if TYPE_CHECKING:
    from moe_harness.bench.pairing import Asked, PairTiming
    from moe_harness.stats.paired import PairConfig
    from moe_harness.suite.subject import Subject


def timing(request: pytest.FixtureRequest, subject: Subject, benchmark: Any, record: dict[str, Any]) -> PairTiming:
    """What a benchmark is given; its own function is called once more, on the other subject."""
    from moe_harness.bench.pairing import PairTiming, Request
    from moe_harness.suite.hosts import available

    spec = spec_of(request.config)
    assert spec.pair is not None
    base = available(request.config, (spec.pair[0], subject.case, subject.dtype), subject.workshop)

    def ask(asked: Asked) -> None:
        given = request.node.funcargs | {"subject": base, "timing": asked}
        request.node.obj(**{name: given[name] for name in inspect.signature(request.node.obj).parameters})

    found = PairTiming(subject, benchmark, record, Request(base, ask, pair_config(request.config), spec.pair_budget))
    request.node.stash[outcome.PAIR] = found.pair
    return found


def pair_config(config: pytest.Config) -> PairConfig:
    """UsageError for a margin, a confidence or a budget that makes no sense."""
    from moe_harness.stats.paired import PairConfig

    spec = spec_of(config)
    given, budget = {"delta": spec.pair_delta, "confidence": spec.pair_confidence}, spec.pair_budget
    try:
        if budget is not None and not budget > 0:
            raise ValueError(f"a budget is a positive number of seconds, got {budget:g}")
        return PairConfig(**{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
