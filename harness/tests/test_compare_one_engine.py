"""The page, report.md, diff.md, diff.json and the exit codes say one and the right thing of two runs."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records.frame import Frame
from moe_harness.records.status import FAILING
from moe_harness.report.compare.baseline import base_of
from moe_harness.report.compare.diff import Diff, compare
from moe_harness.tests.compare_samples import Question, Simulated, expected, simulated

LISTED = {"vanished": "Vanished", "not run": "Not run", "status changed": "Status changed", "fixed": "Fixed", "newly asked": "Newly asked"}


@dataclass
class Said:
    """What each output says: kind -> names."""

    page: dict[str, set[str]]
    counts: dict[str, int]
    new_groups: set[tuple[str, str]]
    report: dict[str, set[str]]
    diff: dict[str, set[str]]
    found: dict[str, Any]
    codes: tuple[int, int]
    paces: int


def said(bases: list[Simulated], runs: list[Simulated], root: Path) -> Said:
    """The files and exit codes of `report` and `diff`, read again."""
    base, run = ([str(each.write(root)) for each in side] for side in (bases, runs))
    options = [word for path in base for word in ("--baseline", path)]
    codes = tuple(
        CliRunner().invoke(application(), [*command, *options]).exit_code
        for command in (["report", *run, "--out", str(root / "out")], ["diff", *run, "--json", str(root / "diff.json")])
    )
    page, report, diff = ((root / "out" / name).read_text("utf-8") for name in ("index.html", "report.md", "diff.md"))
    found, again = (json.loads(path.read_text("utf-8")) for path in (root / "out" / "diff.json", root / "diff.json"))
    assert found == again, "the two commands"
    return Said(
        {kind: set(_listed(page, title)) for kind, title in LISTED.items()},
        _counts(page),
        set(_new_groups(page)),
        _reported(report),
        _sections(diff),
        found,
        (codes[0], codes[1]),
        len(_rows(page.partition("Speeds on the same machine")[2].partition("</table>")[0])),
    )


def _rows(table: str) -> list[str]:
    return [html.unescape(name) for name in re.findall(r"<tr><td>(.*?)<td", table)]


def _listed(page: str, title: str) -> list[str]:
    return _rows(page.partition(f"<div><h3>{title}</h3>")[2].partition("</table>")[0])


def _counts(page: str) -> dict[str, int]:
    line = page.partition("<dt>Since</dt>")[2].partition("</dd>")[0]
    kinds = "new failure|vanished|not run|status changed|fixed|newly asked|slower|faster"
    return {kind: int(number) for number, kind in re.findall(rf">(\d+) ({kinds})s?<", line)}


def _new_groups(page: str) -> Iterator[tuple[str, str]]:
    for article in re.findall(r'<article class="failure".*?</article>', page, re.DOTALL):
        if 'class="tag new"' in article:
            name, place = re.findall(r'<b class="id">(.*?)</b>', article)[0], re.findall(r'<p class="place"><b>(.*?)</b>', article)[0]
            yield name, place.replace("<wbr>", "").partition(" @ ")[0]


def _reported(report: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in report.partition("## Changes")[2].partition("\n## ")[0].splitlines():
        if line.startswith("| ") and not line.startswith(("| changed", "| What", "| ---")):
            kind, name = line.replace("\\", "").strip("| ").split(" | ")[:2]
            found.setdefault(kind, set()).add(name)
    return found


def _sections(diff: str) -> dict[str, set[str]]:
    """diff.md's tables of outcomes."""
    titles = {"New failures": "new failure", "Vanished": "vanished", "Planned, not run": "not run", "Status changed": "status changed",
              "Fixed": "fixed", "Newly asked": "newly asked", "Still failing": "still failing"}  # fmt: skip
    found: dict[str, set[str]] = {}
    for section in diff.split("\n## ")[1:]:
        kind = next((kind for title, kind in titles.items() if section.startswith(title)), "")
        lines = [line.replace("\\", "") for line in section.splitlines() if line.startswith("| ")][2:]
        if kind:
            found[kind] = {" ".join(line.strip("| ").split(" | ")[:2]) for line in lines}
    return found


def hold(bases: list[Simulated], runs: list[Simulated], root: Path) -> None:
    """Everything that is said of two sides agrees with what was simulated, and so with everything else."""
    wanted, heard = expected(bases, runs), said(bases, runs, root)
    wanted.pop("", None)
    named: dict[str, set[str]] = {}
    for outcome in heard.found["outcomes"]:
        named.setdefault(outcome["kind"], set()).add(_name(outcome["key"]))
    shown = {kind: names for kind, names in wanted.items() if kind != "still failing"}
    assert named == wanted, "diff.json"
    assert heard.diff == wanted, "diff.md"
    assert heard.report == shown, "report.md"
    assert {kind: names for kind, names in heard.page.items() if names} == {kind: shown[kind] for kind in shown if kind in LISTED}, "page"
    paces = _paces(bases, runs, heard.found)
    assert heard.counts == Counter({kind: len(names) for kind, names in shown.items()}) + paces, "first screen"
    assert heard.paces == paces.total(), "page's speeds"
    assert heard.new_groups == _groups(wanted.get("new failure", set())), "failures marked new"
    _hold_codes(wanted, runs, heard)


def _name(key: dict[str, str]) -> str:
    variant, hardware = (f"[{key['variant']}]" if key["variant"] else ""), (f"on {key['hardware']}" if key["hardware"] else "")
    return " ".join(filter(None, (key["check"], key["backend"], key["case"], key["dtype"], variant, hardware)))


def _paces(bases: list[Simulated], runs: list[Simulated], found: dict[str, Any]) -> Counter[str]:
    """Slower and faster ones, of one machine on both sides or gating."""
    counts: Counter[str] = Counter()
    for change in found["speeds"]:
        key = change["key"]
        question = (key["check"], key["backend"], key["dtype"], key["variant"])
        hosts = [_hosts(side, question, key["hardware"]) for side in (bases, runs)]
        if change["verdict"] in ("slower", "faster") and (hosts[0] == hosts[1] or change in found["gating"]):
            counts[change["verdict"]] += 1
    return counts


def _hosts(side: list[Simulated], question: Question, place: str) -> set[str]:
    asked = (run for run in side if place in ("", run.hardware) and run.answers[question] != "absent")
    return {run.environment.get("hostname", "bench-01") for run in asked}


def _groups(new: set[str]) -> set[tuple[str, str]]:
    """A VOID speed stands among the speeds."""
    return {(words[0], words[1]) for words in (name.split() for name in new) if words[0] != "decode"}


def _hold_codes(wanted: dict[str, set[str]], runs: list[Simulated], heard: Said) -> None:
    alarm = 1 if wanted.get("new failure") or wanted.get("vanished") or heard.found["gating"] else 4 if wanted.get("not run") else 0
    statuses = {status for run in runs for status in run.answers.values()}
    own = 1 if statuses & set(FAILING) else 4 if "NOT RUN" in statuses else 0
    assert heard.codes == (own or alarm, alarm) and heard.found["code"] == alarm, "exit codes"


@pytest.mark.parametrize("seed", range(40))
def test_all_outputs_say_the_same_and_the_truth(tmp_path: Path, seed: int) -> None:
    hold(*simulated(seed), tmp_path)


def test_the_simulated_runs_hold_every_kind() -> None:
    kinds = Counter(kind for seed in range(40) for kind in expected(*simulated(seed)))
    assert {*LISTED, "new failure", "still failing"} <= set(kinds) and min(kinds.values()) >= 5


def without_variants(frame: Frame) -> Diff | None:
    """An engine of its own, as the page had one: variants of a check are one question."""

    def blind(side: Frame) -> Frame:
        return replace(side, rows=side.rows.assign(node=[node.partition("[")[0] for node in side.rows["node"]]))

    base = base_of(frame)
    return compare(blind(base), blind(frame)) if base else None


@pytest.mark.parametrize("module", ["sections.since", "sections.verdict", "markdown", "failures"])
def test_a_part_that_compares_by_itself_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setattr(f"moe_harness.report.{module}.since", without_variants)
    with pytest.raises(AssertionError):
        for seed in range(10):
            hold(*simulated(seed), tmp_path / str(seed))


def test_a_report_compares_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every section, report.md, diff.md and the exit code ask; one comparison is made."""
    calls: list[Diff] = []

    def counting(*sides: Any) -> Diff:
        calls.append(compare(*sides))
        return calls[-1]

    monkeypatch.setattr("moe_harness.report.compare.diff.compare", counting)
    said(*simulated(3), tmp_path)
    assert len(calls) == 2  # one for each of the two commands
