"""From pytest's reports to records: what was planned, how each check ended, and why. One line a check, written as it ends."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.record import FAILING, Recorder, new_run_directory

VERDICT: pytest.StashKey[Any] = pytest.StashKey()
BENCH: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
_STATE: pytest.StashKey[_State] = pytest.StashKey()
_RUN_DIRECTORY = pytest.StashKey[Path]()


class _State:
    """One process's part of a run."""

    def __init__(self, directory: Path):
        self.directory, self.recorder, self.began = directory, Recorder(directory), time.monotonic()
        self.counts: dict[str, int] = {}
        self.device_missing = False


def run_directory(config: pytest.Config) -> Path:
    """The run's directory: the controller's under xdist, --run-dir, or a new one under reports/runs."""
    if _RUN_DIRECTORY not in config.stash:
        given = getattr(config, "workerinput", {}).get("moe_run_dir") or getattr(config.option, "moe_run_dir", None)
        config.stash[_RUN_DIRECTORY] = Path(given) if given else new_run_directory(Path("reports") / "runs")
    return config.stash[_RUN_DIRECTORY]


def start(config: pytest.Config, items: list[pytest.Item], requested: dict[str, Any]) -> None:
    """Writes the `run` and `plan` records, so that a killed run knows what it owed."""
    from harness.environment import environment

    state = config.stash[_STATE] = _State(run_directory(config))
    state.recorder.write("run", run_id=state.directory.name, command=sys.argv, environment=environment(), requested=requested)
    state.recorder.write("plan", items=[_identity(item) for item in items])


def _identity(item: pytest.Item) -> dict[str, Any]:
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
    status, reason = _classify(item, call)
    required = getattr(item.config.option, "moe_require", None) == "device"
    if status in ("UNSUPPORTED", "UNAVAILABLE", "INCONCLUSIVE"):
        state.device_missing |= required and status == "UNAVAILABLE"
        report.outcome = "failed" if required and status == "UNAVAILABLE" else "skipped"
        report.longrepr = reason if report.outcome == "failed" else (str(item.path), 0, f"{status}: {reason}")
    elif status in FAILING:
        report.outcome = "failed"
        report.longrepr = report.longrepr or reason
    state.counts[status] = state.counts.get(status, 0) + 1
    _write(item, state.recorder, status, reason, call.duration)
    return report


def _classify(item: pytest.Item, call: pytest.CallInfo[None]) -> tuple[str, str]:
    """(status, reason) of an ended check."""
    from harness.subject import Unavailable
    from harness.verdict import Inconclusive
    from implementations.interface import Unsupported

    if call.excinfo is None:
        return _classify_clean(item)
    error = call.excinfo.value
    reason = str(error).strip() or type(error).__name__
    skipped = pytest.skip.Exception  # by pytest-benchmark's --benchmark-skip
    kinds = (
        (Unsupported, "UNSUPPORTED"),
        (skipped, "UNSUPPORTED"),
        (Unavailable, "UNAVAILABLE"),
        (Inconclusive, "INCONCLUSIVE"),
        (AssertionError, "FAIL"),
    )
    for kind, status in kinds:
        if isinstance(error, kind):
            return status, _with_notes(reason, error)
    return "CRASHED", _with_notes(f"{type(error).__name__}: {reason}", error)


def _classify_clean(item: pytest.Item) -> tuple[str, str]:
    """A check that raised nothing passes only if it judged something."""
    if BENCH in item.stash:
        return item.stash[BENCH].get("status", "PASS"), item.stash[BENCH].get("reason", "")
    metrics = item.stash[VERDICT].metrics.values() if VERDICT in item.stash else ()
    return ("PASS", "") if any(m.bound is not None for m in metrics) else ("INCONCLUSIVE", "nothing was judged")


def _with_notes(reason: str, error: BaseException) -> str:
    """The message with Hypothesis's falsifying example, cut to what a report can show."""
    text = "\n".join([reason, *getattr(error, "__notes__", ())])
    return text if len(text) <= 2000 else text[:2000] + " ..."


def _write(item: pytest.Item, recorder: Recorder, status: str, reason: str, duration: float) -> None:
    identity = _identity(item)
    about: dict[str, Any] = _execution(identity["backend"])
    about |= {"status": status, "reason": reason, "duration_s": duration, "reproduce": _reproduce(item, identity)}
    clause = item.get_closest_marker("clause")
    if clause:
        measured = item.stash[VERDICT].to_record() if VERDICT in item.stash else {"metrics": [], "evidence": {}}
        recorder.write("check", **identity, **about, **measured)
    else:
        identity |= {"workload": identity.pop("check").removeprefix("BENCH-")}
        recorder.write("bench", **(identity | about | item.stash.get(BENCH, {}) | {"status": status, "reason": reason}))


def _execution(name: str) -> dict[str, Any]:
    from implementations.registry import backend

    try:
        capabilities = backend(name).capabilities()
    except Exception as error:  # a backend may crash anywhere; its record is written all the same
        return {"execution": "", "execution_note": f"capabilities() raised {type(error).__name__}"}
    return {"execution": capabilities.execution, "execution_note": capabilities.execution_note}


def _reproduce(item: pytest.Item, identity: dict[str, Any]) -> str:
    command = "run" if item.get_closest_marker("clause") else "bench"
    name = item.originalname if isinstance(item, pytest.Function) else item.name
    own = [path for path in getattr(item.config.option, "moe_checkpoint", None) or () if Path(path).resolve().name == identity["case"]]
    words = ["moe-harness", command, "--backend", identity["backend"], "--dtype", identity["dtype"]]
    if own:
        return shlex.join([*words, "--checkpoint", str(own[0]), "-k", name])
    return shlex.join([*words, "-k", f"{name} and {identity['case']}"])


def finish(session: pytest.Session, exitstatus: int) -> None:
    """Writes the `end` record; a required device that was missing makes the exit status 3."""
    if _STATE in session.config.stash:
        state = session.config.stash[_STATE]
        if state.device_missing:
            session.exitstatus = 3
        state.recorder.write("end", exit_status=int(session.exitstatus), duration_s=time.monotonic() - state.began)
        state.recorder.close()


def summarise(terminalreporter: Any, config: pytest.Config) -> None:
    """One line: the counts by status and where the records are."""
    if _STATE in config.stash:
        state = config.stash[_STATE]
        counts = ", ".join(f"{count} {status}" for status, count in sorted(state.counts.items()))
        terminalreporter.write_sep("-", f"moe-harness: {counts or 'nothing ran'}")
        terminalreporter.write_line(f"records: {state.directory}")
