"""The verdict: colour, counts, what the exit code means, how far the judge is to be trusted, on what machine and versions it ran."""

from __future__ import annotations

from harness.report import template
from harness.report.frame import Frame, Run
from harness.report.trust import trust
from harness.report.verdict import verdict

TITLE = ""
ORDER = 10
_VERSIONS = ("torch", "transformers")  # the rest stands in the environment table
_TONES = {"failed": "bad", "void": "bad", "not run": "open", "inconclusive": "open"}  # of a count that is not zero
_ALWAYS = ("passed", "failed", "inconclusive", "void", "not run")  # shown even if zero: the reader looks for them


def render(frame: Frame) -> str:
    found = verdict(frame)
    shown = [(label, number) for label, number in found.counts.items() if number or label in _ALWAYS]
    counts = [(label, number, _TONES.get(label, "") if number else "") for label, number in shown]
    runs = [(run.machine, provenance(run)) for run in frame.runs]
    return template.render("verdict", verdict=found, counts=counts, runs=runs, trust=trust(frame))


def provenance(run: Run) -> str:
    """Machine, versions and commit in one line."""
    env = run.environment
    accelerators = ", ".join(str(name) for name in env.get("accelerators") or ()) or "no accelerator"
    units = [("cores", "cores"), ("memory_gib", "GiB")] + [("threads", "threads")] * (env.get("threads") != env.get("cores"))
    size = [f"{env[key]} {unit}" for key, unit in units if env.get(key)]
    packages = env.get("packages") or {}
    versions = [f"{name} {packages[name]}" for name in _VERSIONS if name in packages]
    commit = f"commit {str(env['commit'])[:10]}{' + changes' if env.get('dirty') else ''}" if env.get("commit") else "no commit"
    python = f"Python {env['python']}" if env.get("python") else ""
    parts = (", ".join(filter(None, (env.get("cpu"), *size))), accelerators, env.get("os"), python, *versions, commit)
    return " · ".join([str(part) for part in parts if part] + [_time(run)])


def _time(run: Run) -> str:
    return run.started[:16].replace("T", " ") + " UTC" if run.started else "no record"
