"""A kernel that takes its process with it, hangs, or leaves it unusable costs its own line and no other."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from moe_harness.cases.describe import read_model
from moe_harness.implementations.interface import InvalidInput
from moe_harness.kernel.check import Line
from moe_harness.kernel.guarded import DEATHS, Order, guarded
from moe_harness.kernel.run import Suite

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="these kernels are in torch")
# Those of CASES that have 17 tokens.
OF_17 = {"tokens-17", "square-down"}
CASES = ("tokens-1", "tokens-16", "tokens-17", "tokens-127", "same-call-twice", "square-down")


def lines(function: str, timeout: float = 60.0, only: tuple[str, ...] = CASES) -> dict[str, Line]:
    suite = Suite(read_model("mixtral-8x7b"), "float32", true=False, only=only)
    return {
        line.name: line for line in guarded(Order(f"moe_harness.implementations.tests.wrong_kernels:{function}", suite, timeout=timeout))
    }


def test_a_dying_process_costs_its_case():
    seen = lines("reads_address_zero")
    dead = {name for name, line in seen.items() if line.status != "PASS"}
    assert dead == OF_17 and len(seen) == 6
    assert {seen[name].reason for name in dead} == {"the process died of SIGSEGV"}


def test_a_process_that_always_dies_is_given_up():
    seen = list(lines("exits").values())
    assert [line.status for line in seen] == ["CRASHED"] * 6
    assert [line.reason for line in seen[:DEATHS]] == ["the process ended with exit code 3"] * DEATHS
    assert all(line.reason.startswith("not asked: ") for line in seen[DEATHS:])


def test_a_hanging_kernel_is_a_timeout():
    seen = lines("hangs", timeout=8.0, only=("tokens-16", "tokens-17", "tokens-127"))
    assert [line.status for line in seen.values()] == ["PASS", "TIMEOUT", "PASS"]
    assert seen["tokens-17"].reason == "no answer within 8 s"


def test_a_poisoned_process_is_replaced():
    seen = lines("poisons_its_process")
    assert {name for name, line in seen.items() if line.status == "CRASHED"} == OF_17


def test_a_refusal_in_the_process_comes_back():
    with pytest.raises(InvalidInput, match="AttributeError"):
        lines("no_such_kernel")
