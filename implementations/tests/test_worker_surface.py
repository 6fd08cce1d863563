"""The worker's list of methods against the contract, so that a method added there is not forgotten here."""

from __future__ import annotations

from typing import Any

from moe_harness.implementations import interface
from moe_harness.implementations.worker.surface import KINDS, MAKES

ON_BACKENDS = {"RouterBuilder", "GoldenTrainer", "Gauge", "Compiler"}  # the other optional protocols are a model's


def methods(protocol: Any) -> set[str]:
    return {name for name, thing in vars(protocol).items() if callable(thing) and not name.startswith("_")}


def optional_protocols() -> dict[str, Any]:
    return {name: thing for name, thing in vars(interface).items() if getattr(thing, "_is_runtime_protocol", False)}


def test_the_optional_protocols_are_seen():
    assert {"Probe", "Generate", "GoldenTrainer"} <= set(optional_protocols())


def test_every_method_of_the_contract_can_be_called():
    for kind, protocol in (("backend", interface.Backend), ("model", interface.Model), ("router", interface.Router)):
        assert set(KINDS[kind].required) == methods(protocol)
    on_backends = {name for name in optional_protocols() if name in ON_BACKENDS}
    assert set(KINDS["backend"].optional) == set().union(*(methods(optional_protocols()[name]) for name in on_backends))
    on_models = set(optional_protocols()) - ON_BACKENDS
    assert set(KINDS["model"].optional) == set().union(*(methods(optional_protocols()[name]) for name in on_models))


def test_what_is_made_is_of_a_known_kind():
    assert set(MAKES.values()) <= set(KINDS) and set(MAKES) <= set(KINDS["backend"].required + KINDS["backend"].optional)
