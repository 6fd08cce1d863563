"""A run over a fleet: planned here, done there, recorded here. What does not come back is recorded as CRASHED, check by check."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_harness.checks import clauses
from moe_harness.records.record import Recorder
from moe_harness.records.status import Status
from moe_harness.run import expectations, workers
from moe_harness.run.expectations import Expectation
from moe_harness.run.fleet.cluster import Lost, connected, done, needs, require
from moe_harness.run.fleet.perform import Files, perform
from moe_harness.run.fleet.share import Identity, Share, shares
from moe_harness.run.recording import opening
from moe_harness.suite.run_spec import RunSpec

UNSAID: Mapping[str, Any] = {
    "execution": "", "execution_note": "", "metrics": [], "evidence": {}, "maps": {}, "capsule": None,
}  # fmt: skip


@dataclass(frozen=True)
class Fleet:
    """`address`: of the Ray cluster, or "local"; `work`: what a machine does with a share."""

    address: str
    work: Callable[[RunSpec, Share, str], Files] = perform


def fan_out(spec: RunSpec, fleet: Fleet, items: list[Identity], directory: Path) -> None:
    """Runs the planned checks into a run directory. Raises NoCluster before anything is written."""
    began, given, options = time.monotonic(), shares(items), needs(spec.device)
    known = expectations.load(spec.expect or (), set(clauses()))
    with connected(fleet.address) as ray, Recorder(directory) as recorder:
        require(ray, options)
        _open(recorder, spec, items)
        answers = done(ray, fleet.work, [(spec, share, directory.name) for share in given], options)
        cut_off = [name for number, answer in answers for name in _settle(recorder, known, given[number], number, answer)]
        recorder.write("end", exit_status=0, duration_s=time.monotonic() - began, lost=sorted(cut_off))


def _open(recorder: Recorder, spec: RunSpec, items: list[Identity]) -> None:
    recorder.write("run", run_id=recorder.directory.name, **opening(sys.argv, spec.requested()))
    recorder.write("plan", items=items)


def _settle(recorder: Recorder, known: list[Expectation], share: Share, number: int, answer: Files | Lost) -> list[str]:
    """Writes what a share brought, and a record for each check that it owes. Names of its shards that were cut off."""
    files: Files = {} if isinstance(answer, Lost) else answer
    names = [_keep(recorder.directory, path, data, number) for path, data in files.items()]
    written = [record for record in workers.records(recorder.directory) if record.get("shard") in names]
    judged = {record["node"] for record in written if record["type"] == "check"}
    reason = answer.reason if isinstance(answer, Lost) else "the process died in this check or before it"
    for item in share.items:
        if item["node"] not in judged:
            outcome = expectations.judge(known, item, Status.CRASHED, reason)
            recorder.write("check", **item, **UNSAID, **vars(outcome), grade="", duration_s=0.0, reproduce="")
    ended = {record["shard"] for record in written if record["type"] == "end"}
    return [name for name in names if name.startswith("records-") and name not in ended]


def _keep(directory: Path, path: str, data: bytes, number: int) -> str:
    """Shards get the share's number, capsules keep their names: these say backend, case and dtype."""
    target = directory / (path.replace("records-", f"records-{number}-", 1) if "/" not in path else path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target.name
