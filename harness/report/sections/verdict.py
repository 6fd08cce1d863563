"""The verdict: colour, counts, exit code; what differs from the last green run; how far the judge is to be trusted; on what it ran."""

from __future__ import annotations

from collections import Counter

from moe_harness.records.frame import Frame, Run
from moe_harness.report import template
from moe_harness.report.compare.diff import Diff, since
from moe_harness.report.sections.since import facts
from moe_harness.report.trust import in_short
from moe_harness.report.verdict import verdict

TITLE = ""
ORDER = 10
RUNS, NOTES, FACTS = 2, 3, 4  # in sight
_VERSIONS = ("torch", "transformers")  # the rest stands in the environment table
_TONES = {"failed": "bad", "void": "bad", "not run": "open", "inconclusive": "open", "slower": "bad"}  # of a count that is not zero
_MOVED = {"new failure": "bad", "vanished": "bad", "not run": "open", "status changed": "open", "fixed": "good-text", "newly asked": ""}
_ALWAYS = ("passed", "failed", "inconclusive", "void", "not run")  # shown even if zero: the reader looks for them


def render(frame: Frame) -> str:
    found = verdict(frame)
    shown = [(label, number) for label, number in found.counts.items() if number or label in _ALWAYS]
    counts = [(label, number, _TONES.get(label, "") if number else "") for label, number in shown]
    notes = [*(each.sentence for each in found.conformances), *found.notes]
    runs = [(run.machine, provenance(run)) for run in frame.runs]
    compared = since(frame)
    context = {"since": compared and summary(compared), "facts": facts(compared) if compared else (), "most_facts": FACTS}
    return template.render("verdict", verdict=found, counts=counts, notes=(notes[:NOTES], notes[NOTES:]), trust=in_short(frame),
                           runs=(runs[:RUNS], runs[RUNS:]), **context)  # fmt: skip


def summary(found: Diff) -> tuple[str, list[tuple[str, str]]]:
    """(the run compared with, counts of what changed with their tone)."""
    run, word = found.base.frame.runs[0], verdict(found.base.frame).word
    said = [(text, _MOVED[kind]) for kind, text in found.counts.items() if kind in _MOVED]
    paces = Counter(change.verdict for change in found.paces)
    said += [(f"{paces[name]} {name}", tone) for name, tone in (("slower", "open"), ("faster", "")) if paces[name]]
    said = said or [("no check or speed changed", "")]
    return f"{run.started[:16].replace('T', ' ')}, {word}", said


def provenance(run: Run) -> str:
    """Machine, versions and commit in one line; the environment table has more."""
    env = run.environment
    accelerators = ", ".join(str(name) for name in env.get("accelerators") or ()) or "no accelerator"
    units = [("cores", "cores"), ("memory_gib", "GiB")] + [("threads", "threads")] * (env.get("threads") != env.get("cores"))
    size = [f"{env[key]} {unit}" for key, unit in units if env.get(key)]
    packages = env.get("packages") or {}
    versions = [f"{name} {packages[name]}" for name in _VERSIONS if name in packages]
    commit = f"commit {str(env['commit'])[:10]}{' + changes' if env.get('dirty') else ''}" if env.get("commit") else "no commit"
    python = f"Python {env['python']}" if env.get("python") else ""
    parts = (", ".join(filter(None, (env.get("cpu"), *size))), accelerators, python, *versions, commit)
    return " · ".join([str(part) for part in parts if part] + [_time(run)])


def _time(run: Run) -> str:
    return run.started[:16].replace("T", " ") + " UTC" if run.started else "no record"
