"""The records of a pytest session: what was planned, then one line a check, written as it ends."""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from moe_harness.records.record import RUNS, Recorder, new_run_id
from moe_harness.records.shard import shards
from moe_harness.records.status import Status
from moe_harness.run import adopters, console, workers
from moe_harness.run.expectations import Outcome
from moe_harness.run.outcome import (
    BENCH,
    PAIR,
    VERDICT,
    has_ended,
    identify,
    misses_device,
    outcome,
    outcome_of_death,
    reproduce,
    show,
)
from moe_harness.suite.options import spec_of

_STATE: pytest.StashKey[_State] = pytest.StashKey()
_RUN_DIRECTORY = pytest.StashKey[Path]()
LEAVING = (Status.FAIL, Status.CRASHED)  # a capsule


class _State:
    """One process's part of a run."""

    def __init__(self, directory: Path):
        self.directory, self.recorder, self.began = directory, Recorder(directory), time.monotonic()
        self.written: list[dict[str, Any]] = []
        self.device_missing = False


def run_directory(config: pytest.Config) -> Path:
    """The run's directory: the controller's under xdist, --run-dir, or a new one under reports/runs; made by the first record."""
    if _RUN_DIRECTORY not in config.stash:
        given = getattr(config, "workerinput", {}).get("moe_run_dir") or spec_of(config).run_dir
        config.stash[_RUN_DIRECTORY] = Path(given) if given else RUNS / new_run_id()
    return config.stash[_RUN_DIRECTORY]


def start(config: pytest.Config, items: list[pytest.Item], requested: dict[str, Any]) -> None:
    """Writes the `run` and `plan` records, so that a killed run knows what it owed, and how far the judge was measured."""
    from moe_harness.cases.cases import golden_root
    from moe_harness.records.selftest_figures import summary

    recorder = _open(config, requested).recorder
    planned = [identify(item) for item in items]
    recorder.write("plan", items=planned)
    recorder.write("selftest", **summary(golden_root()))
    for kind, fields in adopters.records(config, planned):
        recorder.write(kind, **fields)
    if spec_of(config).bench:
        from moe_harness.records.timing_figures import of_this_machine

        for figures in of_this_machine():
            recorder.write("timing_selftest", figures=figures)


def _open(config: pytest.Config, requested: dict[str, Any]) -> _State:
    """This process's part of the run, begun with its `run` record unless it has begun already."""
    if _STATE not in config.stash:
        state = config.stash[_STATE] = _State(run_directory(config))
        command = getattr(config, "workerinput", {}).get("moe_command", sys.argv)
        state.recorder.write("run", run_id=state.directory.name, **opening(command, requested, workers.worker_name(config)))
    return config.stash[_STATE]


def opening(command: list[str], requested: dict[str, Any], worker: str = "") -> dict[str, Any]:
    """The facts of a `run` record but for its id."""
    from moe_harness.implementations.interface import CONTRACT_VERSION
    from moe_harness.records.environment import environment

    return {"command": command, "environment": environment(), "requested": requested, "worker": worker, "contract": CONTRACT_VERSION}


def conclude(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> pytest.TestReport:
    """Write the record of a check that has ended, and give pytest the outcome that fits its status."""
    if not has_ended(call) or _STATE not in item.config.stash:
        return report
    state, ended = item.config.stash[_STATE], outcome(item, call)
    state.device_missing |= misses_device(item.config, ended)
    show(item, report, ended)
    state.written.append(identify(item) | {"status": ended.status, "reason": ended.reason})
    _write(item, state.recorder, ended, call.duration)
    return report


def _write(item: pytest.Item, recorder: Recorder, ended: Outcome, duration: float) -> None:
    identity, status, reason = identify(item), ended.status, ended.reason
    about: dict[str, Any] = _execution(item.config, identity["backend"])
    about |= _compilation(item.config, identity["backend"], about["execution_note"])
    about |= {"status": status, "reason": reason, "duration_s": duration, "reproduce": reproduce(item.config, identity)}
    clause = item.get_closest_marker("clause")
    if clause:
        measured = item.stash[VERDICT].to_record() if VERDICT in item.stash else {"metrics": [], "evidence": {}, "maps": {}}
        capsule = _capsule(item, identity, about, recorder.directory) if status in LEAVING and VERDICT in item.stash else None
        recorder.write("check", **identity, **about, **measured, expected=ended.expected, capsule=capsule)
    else:
        identity |= {"workload": identity.pop("check").removeprefix("BENCH-")}
        ending = {"status": status, "reason": reason}
        recorder.write("bench", **(identity | about | item.stash.get(BENCH, {}) | ending))
        if PAIR in item.stash:
            recorder.write("pair", **(identity | about | item.stash[PAIR] | ending))


def _capsule(item: pytest.Item, identity: dict[str, Any], about: dict[str, Any], directory: Path) -> str | None:
    """Writes the failure's capsule; its path in the run's directory. A record is worth more than its capsule: what goes wrong here is said
    as a warning."""
    from moe_harness.diagnosis.make import Failure, preserve

    params = dict(item.callspec.params)  # type: ignore[attr-defined]
    checkpoint = getattr(params.pop("subject")[1], "checkpoint", None)
    told = {**identity, "status": about["status"], "reason": about["reason"]}
    try:
        return preserve(Failure(told, about["reproduce"], params, checkpoint), item.stash[VERDICT], directory)
    except Exception as error:
        warnings.warn(f"no capsule of {identity['node']}: {type(error).__name__}: {error}", stacklevel=1)
        return None


def _execution(config: pytest.Config, name: str) -> dict[str, Any]:
    from moe_harness.judge.verdict import grade
    from moe_harness.suite.hosts import hosts, runs_as

    try:
        capabilities = hosts(config).declared(name)
    except Exception as error:  # a backend may crash anywhere; its record is written all the same
        return {"execution": "", "execution_note": f"capabilities() raised {type(error).__name__}", "grade": ""}
    execution = runs_as(capabilities, spec_of(config).device)
    return {"execution": execution, "execution_note": capabilities.execution_note, "grade": grade(capabilities)}


def _compilation(config: pytest.Config, name: str, note: str) -> dict[str, Any]:
    """Nothing where nothing was compiled since the backend's record before, nor left to the host. What cannot be told is said beside the
    `note`."""
    from moe_harness.implementations.interface import Compilation
    from moe_harness.suite.hosts import hosts

    try:
        found = hosts(config).compilation(name)
    except Exception as error:
        problem = f"compilation() raised {type(error).__name__}: {error}"
        return {"execution_note": f"{note}; {problem}" if note else problem}
    return {} if found == Compilation() else {"compilation": asdict(found)}


def conclude_crash(node: Any, nodeid: str, report: pytest.TestReport, requested: dict[str, Any]) -> None:
    """xdist's controller: writes the record of the check in which a worker died. Without a plan there is nothing of ours to record."""
    identity = workers.planned(run_directory(node.config), nodeid)
    if identity is None:
        return
    ended = outcome_of_death(node.config, identity, node)
    report.longrepr = ended.reason
    if ended.status == Status.KNOWN:
        adopters.excuse(report, ended.reason)
    about = {"execution": "", "execution_note": "", "reproduce": reproduce(node.config, identity), "metrics": [], "evidence": {}}
    _open(node.config, requested).recorder.write("check", **identity, **about, **vars(ended))
    workers.note_lost(node)


def finish(session: pytest.Session, exitstatus: int) -> None:
    """Writes the `end` record. A required device that was missing makes the exit status 3, a stale known failure 1."""
    if _device_missing(session.config):
        session.exitstatus = 3
    if _STATE in session.config.stash:
        state = session.config.stash[_STATE]
        lost = workers.lost_shards(session.config, state.directory)
        state.recorder.write("end", exit_status=int(session.exitstatus), duration_s=time.monotonic() - state.began, lost=lost)
        state.recorder.close()
    if _stale(session.config):
        session.exitstatus = session.exitstatus or 1


def seal_up(config: pytest.Config) -> None:
    """Seals what a session wrote, when all of its processes have: a worker leaves that to its controller."""
    directory = config.stash.get(_RUN_DIRECTORY, None)
    if directory is not None and shards(directory) and not workers.worker_name(config):
        from moe_harness.records.seal import seal

        seal(directory)


def _device_missing(config: pytest.Config) -> bool:
    if workers.is_controller(config) and spec_of(config).require == "device":
        return any(record["status"] == Status.UNAVAILABLE for record in workers.judged(run_directory(config)))
    return _STATE in config.stash and config.stash[_STATE].device_missing


def _stale(config: pytest.Config) -> list[str]:
    """Sentences about known failures that no check of the run has; said once, not by every worker."""
    if not adopters.expected(config) or workers.worker_name(config):
        return []
    return adopters.stale(workers.records(run_directory(config)))


def summarise(terminalreporter: Any, config: pytest.Config) -> None:
    """The counts by status and where the records are; under xdist, of all workers."""
    if workers.is_controller(config):
        if found := workers.judged(run_directory(config)):
            console.summary(terminalreporter, found, run_directory(config), _stale(config))
    elif _STATE in config.stash:
        console.summary(terminalreporter, config.stash[_STATE].written, config.stash[_STATE].directory, _stale(config))
