"""From pytest's reports to outcomes: who was judged, how it ended and why, and what pytest shall show of it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from moe_harness.records.status import FAILING, Status
from moe_harness.run import adopters, workers
from moe_harness.run.expectations import Outcome
from moe_harness.suite.options import spec_of

VERDICT: pytest.StashKey[Any] = pytest.StashKey()
BENCH: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
PAIR: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
SHOWN_AS_SKIPPED = (Status.UNSUPPORTED, Status.UNAVAILABLE, Status.INCONCLUSIVE)  # for pytest


def identify(item: pytest.Item) -> dict[str, Any]:
    """Who is judged by what: node, check or workload, backend, case, dtype."""
    clause, workload = item.get_closest_marker("clause"), item.get_closest_marker("workload")
    params = getattr(item, "callspec", None)
    backend, case, dtype = params.params["subject"] if params and "subject" in params.params else ("", None, "")
    check = clause.args[0] if clause else f"BENCH-{workload.args[0]}" if workload else item.name
    title = clause.args[1] if clause else ""
    node = "::".join([item.path.name, *item.nodeid.split("::")[1:]])
    return {"node": node, "check": check, "title": title, "backend": backend, "case": case.name if case else "", "dtype": dtype}


def has_ended(call: pytest.CallInfo[None]) -> bool:
    """Whether a phase is the last of which there is something to record."""
    return call.when == "call" or (call.when == "setup" and call.excinfo is not None)


def outcome(item: pytest.Item, call: pytest.CallInfo[None]) -> Outcome:
    """The status and reason of an ended check or benchmark, after the file of expected failures was applied."""
    return adopters.judge(item.config, identify(item), *_classify(item, call))


def outcome_of_death(config: pytest.Config, identity: dict[str, Any], node: Any) -> Outcome:
    """That of the check in which one of xdist's workers died."""
    return adopters.judge(config, identity, Status.CRASHED, workers.death(node))


def _classify(item: pytest.Item, call: pytest.CallInfo[None]) -> tuple[str, str]:
    """(status, reason) of an ended check or benchmark."""
    from moe_harness.suite.status import classify

    error, benchmark = call.excinfo.value if call.excinfo else None, item.stash.get(BENCH, None)
    if error is None and benchmark is not None:
        return benchmark.get("status", Status.PASS), benchmark.get("reason", "")
    return classify(error, item.stash.get(VERDICT, None), item.get_closest_marker("workload") is not None)


def misses_device(config: pytest.Config, outcome: Outcome) -> bool:
    """Whether the check is a gap that --require device does not allow."""
    return spec_of(config).require == "device" and outcome.status == Status.UNAVAILABLE


def show(item: pytest.Item, report: pytest.TestReport, outcome: Outcome) -> None:
    """Give pytest's report the outcome that fits the status."""
    if outcome.status in SHOWN_AS_SKIPPED and not misses_device(item.config, outcome):
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, f"{outcome.status}: {outcome.reason}")
    elif outcome.status in SHOWN_AS_SKIPPED:
        report.outcome, report.longrepr = "failed", outcome.reason
    elif outcome.status in FAILING:
        report.outcome, report.longrepr = "failed", report.longrepr or outcome.reason
    elif outcome.status == Status.KNOWN:
        adopters.excuse(report, outcome.reason)


def reproduce(config: pytest.Config, identity: dict[str, Any]) -> str:
    """The command line that asks the same again."""
    spec, name = spec_of(config), identity["node"].split("::")[-1].split("[")[0]
    own = [path for path in spec.checkpoint or () if path.resolve().name == identity["case"]]
    subjects = spec.pair or (identity["backend"],)
    command = "bench" if identity["check"].startswith("BENCH-") else "run"
    words = ["moe-harness", command, "--pair" if spec.pair else "--backend", *subjects]
    words += ["--dtype", identity["dtype"], *spec.repeated(command, subjects)]
    if own:
        return shlex.join([*words, "--checkpoint", str(own[0]), "-k", name])
    return shlex.join([*words, "-k", f"{name} and {identity['case']}"])
