"""A failed check's capsule, put together and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moe_harness.diagnosis.rejudge import rejudge
from moe_harness.judge.exhibit import RECORD, Exhibit
from moe_harness.judge.verdict import Verdict
from moe_harness.repro.capsule import FOLDER, Capsule, checkpoint_facts
from moe_harness.repro.storage import write


@dataclass(frozen=True)
class Failure:
    """`identity`: of the record, with status and reason. `parameters`: of a check that is asked several times. `checkpoint`: the case's
    directory, None for a router by itself."""

    identity: Mapping[str, str]
    reproduce: str
    parameters: Mapping[str, Any]
    checkpoint: Path | None


def preserve(failure: Failure, verdict: Verdict, run_directory: Path) -> str:
    """Writes the capsule and returns its path relative to the run's directory. An exhibit that does not fail again when it is judged from
    its arrays (the check compared two runs, say) is no evidence of this failure and is left out."""
    metrics, exhibit = tuple(verdict.metrics.values()), verdict.exhibit or Exhibit(RECORD, dtype=failure.identity["dtype"])
    facts = checkpoint_facts(failure.checkpoint)
    capsule = Capsule(failure.identity, metrics, failure.reproduce, exhibit, facts, failure.parameters)
    if not any(metric.violated for metric in rejudge(capsule)):
        capsule = replace(capsule, exhibit=Exhibit(RECORD, dtype=failure.identity["dtype"]))
    return str(write(capsule, run_directory / FOLDER).relative_to(run_directory))
