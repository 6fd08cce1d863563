"""From pytest's reports to records: what was planned, how each check ended, and why. One line a check, written as it ends."""

from __future__ import annotations

import shlex
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from moe_harness.processes import distributed
from moe_harness.records.record import FAILING, Recorder, new_run_id
from moe_harness.records.shard import shards
from moe_harness.run import adopters, console
from moe_harness.run.expectations import Outcome
from moe_harness.suite.options import option

VERDICT: pytest.StashKey[Any] = pytest.StashKey()
BENCH: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
PAIR: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
_STATE: pytest.StashKey[_State] = pytest.StashKey()
_RUN_DIRECTORY = pytest.StashKey[Path]()
LEAVING = ("FAIL", "CRASHED")  # a capsule


class _State:
    """One process's part of a run."""

    def __init__(self, directory: Path):
        self.directory, self.recorder, self.began = directory, Recorder(directory), time.monotonic()
        self.written: list[dict[str, Any]] = []
        self.device_missing = False


def run_directory(config: pytest.Config) -> Path:
    """The run's directory: the controller's under xdist, --run-dir, or a new one under reports/runs; made by the first record."""
    if _RUN_DIRECTORY not in config.stash:
        given = getattr(config, "workerinput", {}).get("moe_run_dir") or getattr(config.option, "moe_run_dir", None)
        config.stash[_RUN_DIRECTORY] = Path(given) if given else Path("reports") / "runs" / new_run_id()
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
    if getattr(config.option, "moe_benchmark", False):
        from moe_harness.records.timing_figures import of_this_machine

        for figures in of_this_machine():
            recorder.write("timing_selftest", figures=figures)


def _open(config: pytest.Config, requested: dict[str, Any]) -> _State:
    """This process's part of the run, begun with its `run` record unless it has begun already."""
    from moe_harness.records.environment import environment

    if _STATE not in config.stash:
        state = config.stash[_STATE] = _State(run_directory(config))
        command = getattr(config, "workerinput", {}).get("moe_command", sys.argv)
        about = {"command": command, "environment": environment(), "requested": requested, "worker": distributed.worker_name(config)}
        state.recorder.write("run", run_id=state.directory.name, **about)
    return config.stash[_STATE]


def identify(item: pytest.Item) -> dict[str, Any]:
    """Who is judged by what: node, check or workload, backend, case, dtype."""
    clause, workload = item.get_closest_marker("clause"), item.get_closest_marker("workload")
    params = getattr(item, "callspec", None)
    backend, case, dtype = params.params["subject"] if params and "subject" in params.params else ("", None, "")
    check = clause.args[0] if clause else f"BENCH-{workload.args[0]}" if workload else item.name
    title = clause.args[1] if clause else ""
    node = "::".join([item.path.name, *item.nodeid.split("::")[1:]])
    return {"node": node, "check": check, "title": title, "backend": backend, "case": case.name if case else "", "dtype": dtype}


def conclude(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> pytest.TestReport:
    """Classifies a finished phase, writes the record when the check has ended, and gives pytest the outcome that fits the status."""
    ended = call.when == "call" or (call.when == "setup" and call.excinfo is not None)
    if not ended or _STATE not in item.config.stash:
        return report
    state = item.config.stash[_STATE]
    outcome = adopters.judge(item.config, identify(item), *_classify(item, call))
    status, reason = outcome.status, outcome.reason
    required = getattr(item.config.option, "moe_require", None) == "device"
    if status in ("UNSUPPORTED", "UNAVAILABLE", "INCONCLUSIVE"):
        state.device_missing |= required and status == "UNAVAILABLE"
        report.outcome = "failed" if required and status == "UNAVAILABLE" else "skipped"
        report.longrepr = reason if report.outcome == "failed" else (str(item.path), 0, f"{status}: {reason}")
    elif status in FAILING:
        report.outcome = "failed"
        report.longrepr = report.longrepr or reason
    elif status == "KNOWN":
        adopters.excuse(report, reason)
    state.written.append(identify(item) | {"status": status, "reason": reason})
    _write(item, state.recorder, outcome, call.duration)
    return report


def _classify(item: pytest.Item, call: pytest.CallInfo[None]) -> tuple[str, str]:
    """(status, reason) of an ended check or benchmark."""
    from moe_harness.suite.status import classify

    error, benchmark = call.excinfo.value if call.excinfo else None, item.stash.get(BENCH, None)
    if error is None and benchmark is not None:
        return benchmark.get("status", "PASS"), benchmark.get("reason", "")
    return classify(error, item.stash.get(VERDICT, None), item.get_closest_marker("workload") is not None)


def _write(item: pytest.Item, recorder: Recorder, outcome: Outcome, duration: float) -> None:
    identity, status, reason = identify(item), outcome.status, outcome.reason
    about: dict[str, Any] = _execution(item.config, identity["backend"])
    about |= _compilation(item.config, identity["backend"], about["execution_note"])
    about |= {"status": status, "reason": reason, "duration_s": duration, "reproduce": _reproduce(item.config, identity)}
    clause = item.get_closest_marker("clause")
    if clause:
        measured = item.stash[VERDICT].to_record() if VERDICT in item.stash else {"metrics": [], "evidence": {}, "maps": {}}
        capsule = _capsule(item, identity, about, recorder.directory) if status in LEAVING and VERDICT in item.stash else None
        recorder.write("check", **identity, **about, **measured, expected=outcome.expected, capsule=capsule)
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
    execution = runs_as(capabilities, option(config, "device"))
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


def _reproduce(config: pytest.Config, identity: dict[str, Any]) -> str:
    command = "bench" if identity["check"].startswith("BENCH-") else "run"
    name = identity["node"].split("::")[-1].split("[")[0]
    own = [path for path in getattr(config.option, "moe_checkpoint", None) or () if Path(path).resolve().name == identity["case"]]
    pair = getattr(config.option, "moe_pair", None)
    subjects = pair or [identity["backend"]]
    words = ["moe-harness", command, *(["--pair", *pair] if pair else ["--backend", *subjects]), "--dtype", identity["dtype"]]
    device = option(config, "device")
    words += [] if device == "cpu" else ["--device", device]
    for subject in dict.fromkeys(subjects):
        words += _worker(config, subject)
    words += _bench_set(config) if command == "bench" else []
    if own:
        return shlex.join([*words, "--checkpoint", str(own[0]), "-k", name])
    return shlex.join([*words, "-k", f"{name} and {identity['case']}"])


def _bench_set(config: pytest.Config) -> list[str]:
    """The options that say which benchmarks there are."""
    trace = getattr(config.option, "moe_routing_trace", None)
    return [*(["--wide"] if getattr(config.option, "moe_wide", False) else []), *(["--routing-trace", trace] if trace else [])]


def _worker(config: pytest.Config, backend: str) -> list[str]:
    """The options of a backend that ran in a worker."""
    pythons = [word for word in getattr(config.option, "moe_python", None) or () if word.partition("=")[0] == backend]
    timeout = getattr(config.option, "moe_worker_timeout", None)
    return [*(f"--python={word}" for word in pythons), *([f"--timeout={timeout:g}"] if pythons and timeout else [])]


def conclude_crash(node: Any, nodeid: str, report: pytest.TestReport, requested: dict[str, Any]) -> None:
    """xdist's controller: writes the record of the check in which a worker died. Without a plan there is nothing of ours to record."""
    identity = distributed.planned(run_directory(node.config), nodeid)
    if identity is None:
        return
    outcome = adopters.judge(node.config, identity, "CRASHED", distributed.death(node))
    report.longrepr = outcome.reason
    if outcome.status == "KNOWN":
        adopters.excuse(report, outcome.reason)
    about = {"execution": "", "execution_note": "", "reproduce": _reproduce(node.config, identity), "metrics": [], "evidence": {}}
    _open(node.config, requested).recorder.write("check", **identity, **about, **vars(outcome))
    distributed.note_lost(node)


def finish(session: pytest.Session, exitstatus: int) -> None:
    """Writes the `end` record. A required device that was missing makes the exit status 3, a stale known failure 1."""
    if _device_missing(session.config):
        session.exitstatus = 3
    if _STATE in session.config.stash:
        state = session.config.stash[_STATE]
        lost = distributed.lost_shards(session.config, state.directory)
        state.recorder.write("end", exit_status=int(session.exitstatus), duration_s=time.monotonic() - state.began, lost=lost)
        state.recorder.close()
    if _stale(session.config):
        session.exitstatus = session.exitstatus or 1


def seal_up(config: pytest.Config) -> None:
    """Seals what a session wrote, when all of its processes have: a worker leaves that to its controller."""
    directory = config.stash.get(_RUN_DIRECTORY, None)
    if directory is not None and shards(directory) and not distributed.worker_name(config):
        from moe_harness.records.seal import seal

        seal(directory)


def _device_missing(config: pytest.Config) -> bool:
    if distributed.is_controller(config) and getattr(config.option, "moe_require", None) == "device":
        return any(record["status"] == "UNAVAILABLE" for record in distributed.judged(run_directory(config)))
    return _STATE in config.stash and config.stash[_STATE].device_missing


def _stale(config: pytest.Config) -> list[str]:
    """Sentences about known failures that no check of the run has; said once, not by every worker."""
    if not adopters.expected(config) or distributed.worker_name(config):
        return []
    return adopters.stale(distributed.records(run_directory(config)))


def summarise(terminalreporter: Any, config: pytest.Config) -> None:
    """The counts by status and where the records are; under xdist, of all workers."""
    if distributed.is_controller(config):
        if found := distributed.judged(run_directory(config)):
            console.summary(terminalreporter, found, run_directory(config), _stale(config))
    elif _STATE in config.stash:
        console.summary(terminalreporter, config.stash[_STATE].written, config.stash[_STATE].directory, _stale(config))
