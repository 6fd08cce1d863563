"""A kernel's verdict as lines for a terminal, as Markdown for a pull request, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moe_harness.judge.metric import Metric
from moe_harness.kernel.check import Line
from moe_harness.records.environment import environment
from moe_harness.records.plain import json_safe
from moe_harness.records.status import FAILING, Status

SHOWN = 2  # lines of a group that did not pass, in Markdown
SEEN = "moe-harness torch transformers triton numpy".split()


@dataclass(frozen=True)
class Verdict:
    """All lines of one kernel. `title`: what was judged on what; `command`: how to do it again."""

    title: str
    command: str
    lines: tuple[Line, ...]
    seconds: float

    @property
    def failing(self) -> list[Line]:
        return [line for line in self.lines if line.status in FAILING]

    @property
    def passed(self) -> bool:
        """Nothing failed, and something was judged."""
        return not self.failing and any(line.status == Status.PASS for line in self.lines)

    def sentence(self) -> str:
        count = {
            status: sum(line.status == status for line in self.lines)
            for status in (Status.PASS, Status.FAIL, Status.CRASHED, Status.UNSUPPORTED)
        }
        counts = ", ".join(f"{number} {status}" for status, number in count.items() if number) or "nothing judged"
        names = [line.name for line in self.failing]
        only = f" ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})" if names and len(names) < len(self.lines) else ""
        return f"{'PASS' if self.passed else 'FAIL'}: {counts} of {len(self.lines)} cases{only}, {self.seconds:.1f} s"


def worst(line: Line) -> Metric | None:
    """The judged metric nearest to its bound, or furthest beyond."""
    judged = [metric for metric in line.metrics if metric.bound is not None]
    return max(judged, key=lambda metric: metric.severity if metric.severity == metric.severity else float("inf"), default=None)


def text(line: Line) -> str:
    """One line for the terminal."""
    return f"{line.status:<11} {line.name:<18} {line.reason if line.status != 'PASS' else _measured(line)}"


def _measured(line: Line) -> str:
    metric = worst(line)
    repeat = [m.value for m in line.metrics if m.name == "repeat_difference"]
    bits = "" if not repeat else ", bit for bit the same" if repeat[0] == 0 else f", differs by {repeat[0]:.1e}"
    return f"{line.about}: {_ratio(metric)}{bits}" if metric else line.about


def _ratio(metric: Metric) -> str:
    return f"{metric.name} {metric.value:.1e} of {metric.bound:.1e} allowed"


def markdown(verdict: Verdict) -> str:
    """A short table: a row a group that passed, a row a case that did not (SHOWN of a group); then versions and the command."""
    rows = [row for group in dict.fromkeys(line.group for line in verdict.lines) for row in _group_rows(group, verdict.lines)]
    here = environment()
    versions = ", ".join(f"{name} {here['packages'][name]}" for name in SEEN if name in here["packages"])
    machine = ", ".join([here["cpu"], *here["accelerators"]])
    head = [f"**{verdict.title}**", "", verdict.sentence(), "", "| cases | verdict | worst |", "|---|---|---|"]
    return "\n".join([*head, *rows, "", f"{versions}; {machine}", "", f"```\n{verdict.command}\n```"])


def _group_rows(group: str, lines: Sequence[Line]) -> list[str]:
    members = [line for line in lines if line.group == group]
    passed, others = ([line for line in members if (line.status == Status.PASS) is good] for good in (True, False))
    rows = [f"| `{line.name}` | {line.status} | {_cell(line.reason)} |" for line in others[:SHOWN]]
    if rest := others[SHOWN:]:
        rows.append(
            f"| {len(rest)} more | {', '.join(sorted({line.status for line in rest}))} | {', '.join(f'`{line.name}`' for line in rest)} |"
        )
    if passed:
        hardest = max((metric for metric in map(worst, passed) if metric), key=lambda metric: metric.severity)
        rows.insert(0, f"| {group} ({len(passed)}) | PASS | {_ratio(hardest)} |")
    return rows


def _cell(text: str) -> str:
    """Nothing in a kernel's message may end a table cell or start HTML."""
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "&#96;"), ("\n", " ")):
        text = text.replace(sign, safe)
    return text


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Every line with all its metrics, and the environment."""
    lines = [{**asdict(line), "metrics": [metric.to_record() for metric in line.metrics]} for line in verdict.lines]
    whole = {"title": verdict.title, "command": verdict.command, "passed": verdict.passed, "seconds": verdict.seconds}
    return {name: json_safe(value, name) for name, value in {**whole, "environment": environment(), "cases": lines}.items()}
