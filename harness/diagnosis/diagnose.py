"""The diagnosis of an exhibit: where the error enters, and which known bug makes the same one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moe_harness.diagnosis.block import find_in_block
from moe_harness.diagnosis.finding import Finding
from moe_harness.diagnosis.hypotheses import Answer, explain_by_catalogue
from moe_harness.diagnosis.model import find_in_model
from moe_harness.diagnosis.router import find_in_router
from moe_harness.judge.exhibit import BLOCK, MODEL, RECORD, ROUTER, Exhibit
from moe_harness.mutants.catalogue import FAULTS
from moe_harness.mutants.entry import Fault

if TYPE_CHECKING:
    from moe_harness.diagnosis.stage import Echoes


@dataclass(frozen=True)
class Diagnosis:
    """`answer`: of hypotheses, or of a check that was asked again. None: nothing could be tried, for want of weights."""

    finding: Finding
    answer: Answer | Echoes | None

    @property
    def operators(self) -> tuple[str, ...]:
        """Those of the known bugs that fit, else the suspects."""
        return (self.answer.operators if self.answer else ()) or self.finding.operators


def diagnose(exhibit: Exhibit, faults: Iterable[Fault] = FAULTS) -> Diagnosis:
    """Raises ValueError for an exhibit that holds no experiment."""
    if exhibit.kind == RECORD:
        raise ValueError("a record without arrays cannot be diagnosed")
    find = {ROUTER: find_in_router, BLOCK: find_in_block, MODEL: find_in_model}[exhibit.kind]
    with np.errstate(all="ignore"):
        finding = find(exhibit)
    return Diagnosis(finding, explain_by_catalogue(exhibit, faults) if exhibit.tensors else None)
