"""DROP-01 on a factor that leaves room for all: nobody is dropped, and a backend that then says so by None is not wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moe_harness.cases.cases import named_cases
from moe_harness.cases.synthetic import routing_of, small
from moe_harness.checks.test_capacity import _judge
from moe_harness.judge.verdict import Verdict, Violation
from moe_harness.mutants.catalogue import backend
from moe_harness.suite.situations import like, text
from moe_harness.suite.subject import Subject, Workshop


@pytest.mark.parametrize(("fault", "factor", "passes"), [(None, 1.75, True), (None, 0.5, True), ("neuron-sequence-dimension", 0.5, False)])
def test_room_for_all_is_no_missing_answer(tmp_path: Path, fault: str | None, factor: float, passes: bool) -> None:
    subject = Subject(backend(fault), named_cases()["mixtral"], "float32", Workshop(tmp_path))
    model = like(subject, "capacity", small("mixtral", routing=routing_of("mixtral", 4, 3, True)))  # E / K is 4 / 3
    verdict, asked = Verdict(), (factor, text(model, 1, 24), np.array([24]))
    if passes:
        _judge(model, verdict, *asked, mask_padding=False)
    else:
        with pytest.raises(Violation, match="wrongly_dropped"):
            _judge(model, verdict, *asked, mask_padding=False)
