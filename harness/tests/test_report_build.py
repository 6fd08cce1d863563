"""The four files: they are built from whatever is left of a run, agree with the frame, and hold nothing but text."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from moe_harness.records.frame import load_frame
from moe_harness.records.record import RecordError
from moe_harness.report.build import build
from moe_harness.report.figure import dot_plot
from moe_harness.report.page import find_sections
from moe_harness.report.parity import lanes
from moe_harness.report.table import COLUMNS
from moe_harness.report.verdict import verdict
from moe_harness.tests import report_samples as samples
from moe_harness.tests.report_samples import BACKENDS, bench, check, checks, write_run
from moe_harness.tests.speed_samples import pair

SAMPLES = (samples.green, samples.red, samples.incomplete, samples.void)
FILES = {"index.html", "report.md", "results.csv", "junit.xml"}
VOID_ELEMENTS = {"meta", "br", "col", "wbr"}
MAY_STAY_OPEN = {"td", "th", "tr", "thead", "p"}  # HTML closes these itself
EVIL = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{ 99*991 }} $\\frac{$ | `x` [a](http://e) \x1b\x00 \ud800 \u202e ]]> =1+1"
)


class Page(HTMLParser):
    """Tags, attributes and text of a page; complains where elements do not nest."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1] != tag:
            assert self.open.pop() in MAY_STAY_OPEN
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module", params=SAMPLES, ids=lambda sample: sample.__name__)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run directory, report directory) of each sample, built once."""
    root = tmp_path_factory.mktemp("report")
    directory = request.param(root)
    return directory, built(root, directory)


def built(tmp_path: Path, *directories: Path) -> Path:
    build(load_frame(list(directories)), tmp_path / "out")
    return tmp_path / "out"


def rows_of(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))


def test_four_files_are_written(report: tuple[Path, Path]):
    assert {path.name for path in report[1].iterdir()} == FILES


def test_the_verdict_is_returned(tmp_path: Path):
    directory = samples.void(tmp_path)
    assert build(load_frame([directory]), tmp_path / "out") == verdict(load_frame([directory]))


def test_the_same_records_give_the_same_bytes(report: tuple[Path, Path], tmp_path: Path):
    build(load_frame([report[0]]), tmp_path / "elsewhere" / "again")
    for name in FILES:
        assert (report[1] / name).read_bytes() == (tmp_path / "elsewhere" / "again" / name).read_bytes(), name


def test_another_process_gives_the_same_bytes(tmp_path: Path):
    """Another hash seed, time zone, locale and matplotlibrc."""
    directory = samples.red(tmp_path)
    out = built(tmp_path, directory)
    (tmp_path / "matplotlibrc").write_text("font.size: 22\naxes.facecolor: red\nlines.linewidth: 9\n")
    imports = "import sys; from moe_harness.records.frame import load_frame; from moe_harness.report.build import build"
    code = f"from pathlib import Path; {imports}; build(load_frame([Path(sys.argv[1])]), Path(sys.argv[2]))"
    variables = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    repo = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, str(directory), str(tmp_path / "again")], cwd=repo, env=variables, check=True)
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_the_page_asks_for_nothing_and_runs_nothing(report: tuple[Path, Path]):
    text = (report[1] / "index.html").read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith("#"), (name, value)
    assert not re.search(r"""url\(\s*["']?(?!#)""", text)
    assert "@import" not in text
    assert len(text.encode()) < 200_000


def test_every_link_of_the_page_has_its_target_and_every_id_is_unique(report: tuple[Path, Path]):
    page = Page((report[1] / "index.html").read_text())
    ids = [value for name, value in page.attributes if name == "id"]
    links = {value[1:] for name, value in page.attributes if name == "href"}
    assert len(ids) == len(set(ids))
    assert links <= set(ids)


def test_sections_are_found_in_order():
    names = [section.name for section in find_sections()]
    screen, below = (
        "verdict failures slower overview",
        "since matrix parity heatmap speed pairs skew compilation history skips evidence raw",
    )
    assert names == f"{screen} {below}".split()


def test_a_failure_is_shown_with_all_that_is_needed_to_see_it_again(tmp_path: Path):
    out = built(tmp_path, samples.red(tmp_path))
    text = "".join(Page((out / "index.html").read_text()).text)
    command = "moe-harness run --backend native --dtype float32 -k 'test_route_02 and qwen3_moe'"
    for part in (
        "ROUTE-02",
        "weights are normalised as the family says",
        "weight_error",
        "0.412",
        "4.1e-6",
        "1.0e5×",
        "expected 1",
        command,
    ):
        assert part in text
        assert part.replace("_", "") in (out / "report.md").read_text().replace("\\", "").replace("_", ""), part
    assert "exit 1: something fails that was not expected to" in text
    assert "d876d2164b" in text


def test_a_killed_run_still_builds(tmp_path: Path):
    out = built(tmp_path, samples.incomplete(tmp_path))
    text = "".join(Page((out / "index.html").read_text()).text)
    assert "INCOMPLETE" in text
    assert "ends in a truncated line" in text
    assert "NOT RUN" in (out / "results.csv").read_text()


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_a_run_killed_at_its_start_still_builds(tmp_path: Path, keep: int):
    """Nothing, the run record, the plan: no check, no speed, no figure."""
    directory = samples.green(tmp_path)
    shard = next(directory.glob("records-*.jsonl"))
    shard.write_bytes(b"".join(shard.read_bytes().splitlines(keepends=True)[:keep]))
    assert build(load_frame([directory]), tmp_path / "out").code == 4


def test_unreadable_records_are_an_error_and_leave_the_old_report(tmp_path: Path):
    out = built(tmp_path, samples.green(tmp_path))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    directory = samples.red(tmp_path)
    shard = next(directory.glob("records-*.jsonl"))
    shard.write_bytes(shard.read_bytes().replace(b'"schema": 1', b'"schema": 2', 1))
    with pytest.raises(RecordError, match=r":1: unknown schema 2"):
        build(load_frame([directory]), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_no_run_and_the_same_run_twice_are_errors(tmp_path: Path):
    directory = samples.green(tmp_path)
    with pytest.raises(ValueError, match="given twice"):
        build(load_frame([directory, directory]), tmp_path / "out")
    with pytest.raises(ValueError, match="no run directory"):
        build(load_frame([]), tmp_path / "out")


def test_two_runs_are_merged_and_kept_apart(tmp_path: Path):
    records = [check("ROUTE-01", "native", "mixtral", "float32"), bench("decode", "native", "mixtral", "float32", 0.01)]
    one = write_run(tmp_path / "run-a", records, environment={"hostname": "h100"})
    two = write_run(tmp_path / "run-b", [records[0] | {"status": "FAIL"}], environment={"hostname": "trn2", "commit": "feedbeef00"})
    out = built(tmp_path, one, two)
    found = {(row["run"], row["machine"], row["kind"]): row["status"] for row in rows_of(out)}
    assert found == {("run-a", "h100", "bench"): "PASS", ("run-a", "h100", "check"): "PASS", ("run-b", "trn2", "check"): "FAIL"}
    text = "".join(Page((out / "index.html").read_text()).text)
    assert "native @ h100" in text
    assert "native @ trn2" in text
    assert "feedbeef00" in text
    assert [suite.get("hostname") for suite in ElementTree.parse(out / "junit.xml").getroot()] == ["h100", "trn2"]


def test_two_runs_of_one_machine_are_kept_apart(tmp_path: Path):
    records = [check("ROUTE-01", "native", "mixtral", "float32")]
    frame = load_frame([write_run(tmp_path / name, records) for name in ("a", "b")])
    assert [run.machine for run in frame.runs] == ["bench-01 (1)", "bench-01 (2)"]


def test_the_csv_has_a_row_per_row_of_the_frame(report: tuple[Path, Path]):
    frame, rows = load_frame([report[0]]), rows_of(report[1])
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["node"], row["status"], row["backend"]) for row in rows] == list(
        frame.rows[["node", "status", "backend"]].itertuples(index=False, name=None)
    )
    for row, original in zip(rows, frame.records(), strict=True):
        assert row["value"] == ("" if original["value"] is None else str(original["value"]))
        assert len(json.loads(row["metrics"] or "[]")) == len(original["metrics"])


def test_junit_agrees_with_the_frame(report: tuple[Path, Path]):
    found = verdict(load_frame([report[0]]))
    root = ElementTree.parse(report[1] / "junit.xml").getroot()
    counts, run_cases = found.counts, len(root.findall(".//testcase[@name='run']"))
    assert run_cases == bool(found.notes)
    assert int(root.get("tests", "")) == sum(counts.values()) + run_cases == len(root.findall(".//testcase"))
    assert int(root.get("failures", "")) == counts["failed"] + counts["void"] == len(root.findall(".//failure"))
    assert int(root.get("errors", "")) == counts["not run"] + run_cases == len(root.findall(".//error"))
    skipped = sum(counts[name] for name in ("unsupported", "unavailable", "inconclusive", "known"))
    assert int(root.get("skipped", "")) == skipped == len(root.findall(".//skipped"))
    assert all(len(node.get("message", "")) > len("FAIL: ") for node in root.iter() if node.tag in ("failure", "skipped", "error"))


def evil_failures() -> Iterator[dict[str, Any]]:
    """A known failure and one with a capsule, a layer and a map that is none."""
    place = {"backend": EVIL, "case": EVIL}
    expected = dict.fromkeys(("reason", "url", "expires", "source"), EVIL)
    yield check("ROUTE-02", "b", "c", "float32", status="KNOWN", expected=expected) | place
    texts = {"capsule": EVIL, "reason": "x\n" + EVIL, "grade": EVIL, "maps": {EVIL: EVIL}}
    yield check("ROUTE-03", "b", "c", "float32", status="FAIL", **texts) | place


def evil_speeds() -> Iterator[dict[str, Any]]:
    """Limits, canaries, skewed loads and pairs, in names and where numbers belong."""
    place = {"backend": EVIL, "case": EVIL}
    yield (
        bench("decode", "b", "c", "float32", 0.1, node="facts", **dict.fromkeys("first_call_s canary work limit memory".split(), EVIL))
        | place
    )
    facts = {"limit": {"share": 0.5, "by": EVIL}, "canary": {"disturbed": True}, "work": {"loads": [[EVIL]]}, "workload": EVIL}
    for skew in ("balanced", EVIL.replace(" ", "")):
        yield bench("decode", "b", "c", "float32", 0.1, node=skew, parameters={"skew": skew, EVIL: EVIL}) | facts | place
    yield pair("slower", 1.2) | dict.fromkeys(("a", "b", "workload", "case", "dtype", "reason", "reproduce"), EVIL)
    yield pair("slower", 1.2, status="VOID") | dict.fromkeys(("ratio", "low", "high", "mde", "verdict", "disturbed", "reason"), EVIL)
    yield {"figures": {"false_flags": {"count": EVIL, "of": EVIL}, "seen": EVIL}}


def evil_run(tmp_path: Path) -> Path:
    """Every text that a backend, a checkpoint or a machine can choose is hostile."""
    names = {"backend": EVIL, "case": EVIL, "dtype": EVIL, "reason": EVIL, "execution_note": EVIL, "reproduce": EVIL, "title": EVIL}
    metrics = [{"name": EVIL, "value": 2.0, "bound": 1.0, "kind": "judged"}]
    records: list[dict[str, Any]] = []
    for status in ("FAIL", "PASS", "UNSUPPORTED", "INCONCLUSIVE"):
        record = check("PARITY-01", "b", "c", "float32", node=EVIL + status, status=status, metrics=metrics, execution="cpu") | names
        record["evidence"] |= {EVIL: 1}
        records.append(record)
    gate = [{"name": EVIL, "value": 0.5, "bound": 1.0, "kind": "judged"}]
    records.append(bench("decode", "b", "c", "float32", 0.1, node=EVIL, gate=gate, parameters={EVIL: EVIL}) | names)
    records.append(check("ROUTE-01", "b", "c", "float32", node="odd check") | {"check": EVIL})
    records += [*evil_failures(), *evil_speeds()]
    environment = {"hostname": EVIL, "cpu": EVIL, "accelerators": [EVIL], "packages": {EVIL: EVIL, "torch": EVIL}, "commit": EVIL}
    return write_run(tmp_path / "evil", records, environment=environment, requested={EVIL: [EVIL]}, end=1)


@pytest.mark.parametrize("compared", [False, True])
def test_hostile_texts_are_texts(tmp_path: Path, compared: bool):
    before = check("PAD-01", "b", "c", "float32") | {"backend": EVIL, "case": EVIL}
    base = write_run(tmp_path / "base", [before], environment={"packages": {EVIL: "1"}, "commit": "1" + EVIL})
    build(load_frame([evil_run(tmp_path)], [base] if compared else []), tmp_path / "out")
    out = tmp_path / "out"
    text = (out / "index.html").read_text()
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "98109" not in "".join(page.text)
    assert "<script>alert(1)</script>" in "".join(page.text)
    markdown = (out / "report.md").read_text()
    assert "<script" not in re.sub(r"`[^`]*`", "", markdown)
    assert not re.search(r"(?<!\\)\]\(http", markdown)
    ElementTree.parse(out / "junit.xml")
    cells = [value for row in rows_of(out) for value in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize("name", ["a$\\frac{$", "漢字", "\u202eevitan", "x" * 500, "{{", "</text></svg><script>", "-->", "#010101"])
def test_a_name_is_text_in_the_figure_too(tmp_path: Path, name: str):
    out = built(tmp_path, write_run(tmp_path / "run", [check("PARITY-01", name, "mixtral", "float32")]))
    text = (out / "index.html").read_text()
    assert "script" not in Page(text).tags
    assert "\u202e" not in text
    assert ("x" * 500 if len(name) == 500 else name.replace("\u202e", "\ufffd")) in "".join(Page(text).text)


def test_the_figure_draws_every_point_and_tells_zero_small_and_beyond_apart(tmp_path: Path):
    values = {"zero": 0.0, "inside": 0.02, "beyond": 30.0, "broken": float("nan")}
    metrics = [{"name": name, "value": value, "bound": 1.0, "kind": "judged"} for name, value in values.items()]
    lane = lanes(load_frame([write_run(tmp_path / "run", [check("PARITY-01", "native", "mixtral", "float32", metrics=metrics)])]))
    svg = dot_plot(lane, "title")
    assert [point.metric.name for point in lane[0].points] == ["broken", "beyond", "inside", "zero"]
    hollow, filled, cross = "fill-opacity: 0", "fill: var(--good)", "stroke: var(--bad)"
    assert (svg.count("<use"), svg.count(filled) > 0, svg.count(cross) > 0, svg.count(hollow) > 0) == (4, True, True, True)
    assert not re.search(r"#0[1-5]0[1-5]0[1-5]|http|<metadata|DejaVu", svg)


def test_more_failures_than_fit_are_folded_not_dropped(tmp_path: Path):
    records = [check("ROUTE-01", f"b{number}", "mixtral", "float32", status="FAIL") for number in range(10)]
    text = (built(tmp_path, write_run(tmp_path / "run", records, end=1)) / "index.html").read_text()
    section = text[text.index('<section id="failures">') : text.index('<section id="overview">')]
    before, folded = section.split('<details class="rest">')
    assert (before.count("<article"), folded.count("<article")) == (4, 6)
    assert "6 more" in folded


def test_a_formula_is_defused_in_the_csv(tmp_path: Path):
    out = built(tmp_path, write_run(tmp_path / "run", [check("ROUTE-01", "=cmd()", "mixtral", "float32")]))
    assert rows_of(out)[0]["backend"] == "'=cmd()"


def test_values_that_are_no_numbers_are_shown_and_fail_the_worst(tmp_path: Path):
    metrics = [
        {"name": "fine", "value": 0.1, "bound": 1.0, "kind": "judged"},
        {"name": "broken", "value": float("nan"), "bound": 1.0, "kind": "judged"},
        {"name": "exact", "value": 0.0, "bound": 0.0, "kind": "judged"},
    ]
    directory = write_run(tmp_path / "run", [check("PARITY-01", "native", "mixtral", "float32", status="FAIL", metrics=metrics)], end=1)
    out = built(tmp_path, directory)
    assert (rows_of(out)[0]["metric"], rows_of(out)[0]["value"], rows_of(out)[0]["ratio"]) == ("broken", "nan", "inf")
    assert "∞" in (out / "index.html").read_text()


def test_a_large_run_stays_under_a_megabyte(tmp_path: Path):
    """20 backends, every third failing in everything, with long reasons and a speed each."""
    backends = {f"vendor:{number:02}": "device" for number in range(20)}
    records = list(checks(backends))
    for record in records:
        if int(record["backend"][-2:]) % 3 == 0:
            record |= {"status": "FAIL", "reason": f"{record['node']} " + "diverges " * 200}
    records += [bench("decode", name, f"checkpoint-{n}", "bfloat16", 0.1) for name in backends for n in range(20)]
    out = built(tmp_path, write_run(tmp_path / "run", records, end=1))
    assert len(records) > 2900
    assert (out / "index.html").stat().st_size < 1_000_000
    assert len(rows_of(out)) == len(records)


def test_the_page_shows_every_backend_even_where_all_is_a_gap(tmp_path: Path):
    records = [
        check("ROUTE-01", name, "mixtral", "float32", status="UNAVAILABLE", reason="no driver", metrics=[], evidence={})
        for name in BACKENDS
    ]
    text = "".join(Page((built(tmp_path, write_run(tmp_path / "run", records)) / "index.html").read_text()).text)
    assert "NOTHING JUDGED" in text
    assert text.count("no driver") == len(BACKENDS)
