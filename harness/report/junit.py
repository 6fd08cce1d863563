"""The frame as JUnit XML, for CI servers: failing statuses are failures, gaps are skipped with their reason, incompleteness is an error."""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from moe_harness.records.expected import stale_notes
from moe_harness.records.frame import Frame, Run
from moe_harness.records.status import FAILING, Status
from moe_harness.report.profile import conformances
from moe_harness.report.text import multiple, number
from moe_harness.report.verdict import run_notes


def junit(frame: Frame) -> str:
    """One suite per run; a run that cannot be complete adds a case "run" with an error, a stale known failure and a subject that does not
    conform to its profile one with a failure."""
    root = Element("testsuites", name="moe-harness")
    for run in frame.runs:
        _suite(root, frame, run, run_notes(frame, run))
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _suite(root: Element, frame: Frame, run: Run, notes: list[str]) -> None:
    suite = SubElement(root, "testsuite", name=run.run_id, hostname=run.machine, timestamp=run.started[:19])
    for row in frame.records(run):
        _case(suite, row)
    if notes:
        case = SubElement(suite, "testcase", classname="moe-harness", name="run", time="0")
        SubElement(case, "error", type="INCOMPLETE", message="; ".join(notes))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))
    for name, sentence in _broken_promises(frame, run):
        case = SubElement(suite, "testcase", classname="moe-harness", name=name, time="0")
        SubElement(case, "failure", type="FAIL", message=sentence)
    suite.set("tests", str(len(suite)))
    suite.set("time", f"{sum(float(case.get('time', '0')) for case in suite):.3f}")


def _broken_promises(frame: Frame, run: Run) -> list[tuple[str, str]]:
    """What fails beside the checks: stale known failures, and subjects that do not conform to the profile asked for."""
    gaps = [("profile", found.sentence) for found in conformances(frame) if found.run == run.run_id and not found.conforms]
    return [("expectations", note) for note in stale_notes(run)] + gaps


def _case(suite: Element, row: dict[str, Any]) -> None:
    classname = ".".join(filter(None, (row["backend"], row["case"], row["dtype"], row["check"])))
    case = SubElement(suite, "testcase", classname=classname, name=row["node"], time=f"{row['duration_s'] or 0:.3f}")
    if row["status"] in FAILING:
        failure = SubElement(case, "failure", type=row["status"], message=f"{row['status']}: {row['reason']}")
        failure.text = "\n".join(filter(None, (row["reason"], _measured(row), row["reproduce"])))
    elif row["status"] == Status.NOT_RUN:
        SubElement(case, "error", type="INCOMPLETE", message=row["reason"])
    elif row["status"] != Status.PASS:
        SubElement(case, "skipped", type=row["status"], message=f"{row['status']}: {row['reason']}")


def _measured(row: dict[str, Any]) -> str:
    return f"{row['metric']} = {number(row['value'])}, bound {number(row['bound'])} ({multiple(row['ratio'])})" if row["metric"] else ""
