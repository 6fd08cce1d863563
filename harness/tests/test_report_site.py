"""The site: every engine, profile and version has its place, links lead somewhere, nothing is loaded from elsewhere, and the same runs give
the same bytes."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records.frame import load_frame
from moe_harness.records.record import Recorder
from moe_harness.report.site.alone import alone
from moe_harness.report.site.badge import badge
from moe_harness.report.site.build import build_site
from moe_harness.report.site.engine import engine, version
from moe_harness.report.site.names import slugs
from moe_harness.report.site.results import Line, Result, lines, newest, results
from moe_harness.tests import report_samples as samples
from moe_harness.tests import speed_samples
from moe_harness.tests.report_samples import ENVIRONMENT, check, write_run

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{ 99*991 }} ../../etc \u202e"
WRONG = {"status": "FAIL", "reason": "wrong"}


class Links(HTMLParser):
    """Tags, and addresses that a page follows or loads."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        assert not [name for name, _ in attrs if name.startswith("on")]


def packages(**versions: str) -> dict[str, Any]:
    return ENVIRONMENT["packages"] | versions


def night(root: Path, name: str, day: int, records: list[dict[str, Any]], transformers: str = "5.20.0", **options: Any) -> Path:
    """A run that started on that day."""
    directory = write_run(root / name, records, environment={"packages": packages(transformers=transformers)}, **options)
    for shard in directory.glob("*.jsonl"):
        shard.write_text(re.sub(r'"time": "\d{4}-\d\d-\d\dT', f'"time": "2026-03-{day:02}T', shard.read_text()))
    return directory


def one(backend: str, name: str = "ROUTE-01", **fields: Any) -> dict[str, Any]:
    return check(name, backend, "mixtral", "float32", **fields)


def line_of(found: list[Line], name: str) -> Line:
    return next(line for line in found if line.engine == name)


def lines_of(*directories: Path) -> list[Line]:
    return lines(results({directory.name: load_frame([directory]) for directory in directories}))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    nights = [night(root, "r1", 1, [one("hf"), one("native")]), night(root, "r2", 2, [one("hf"), one("native", **WRONG)], end=1)]
    build_site([*nights, samples.red(root), speed_samples.full(root)], root / "out")
    return root / "out"


def test_there_is_a_page_a_run_and_a_badge_an_engine(site: Path):
    assert {path.name for path in (site / "runs").iterdir()} == {
        "r1", "r2", "20260302t020000.000000z-1c2d", "20260305t020000.000000z-5c6d",
    }  # fmt: skip
    assert {path.name for path in (site / "badges").iterdir()} == {"hf-all-checks.svg", "native-all-checks.svg", "te-all-checks.svg"}
    assert all(
        {path.name for path in run.iterdir()} == {"index.html", "report.md", "results.csv", "junit.xml"}
        for run in (site / "runs").iterdir()
    )


def test_every_link_leads_to_a_file_of_the_site(site: Path):
    for page in site.rglob("*.html"):
        for address in Links(page.read_text()).found:
            if not address.startswith("#"):
                assert (page.parent / address).is_file(), (page, address)


def test_nothing_is_loaded_from_elsewhere(site: Path):
    for path in site.rglob("*"):
        if path.suffix in (".html", ".svg"):
            text = path.read_text()
            assert not re.search(r"""(src|href)=["']?(https?:|//)|@import|url\(\s*["']?(?!#)""", text), path
            assert not {"script", "link", "iframe", "object"} & Links(text).tags


def test_the_same_runs_in_any_order_give_the_same_bytes(tmp_path: Path):
    nights = [night(tmp_path, "r1", 1, [one("hf"), one("native")]), night(tmp_path, "r2", 2, [one("hf"), one("native", **WRONG)], end=1)]
    build_site(nights, tmp_path / "a")
    build_site(nights[::-1], tmp_path / "b")
    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(names) > 10
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_versions_stand_newest_first_and_one_run_of_each(tmp_path: Path):
    runs = [
        night(tmp_path, "a", 1, [one("hf")], "5.19.0"), night(tmp_path, "b", 2, [one("hf", **WRONG)], "5.20.0", end=1),
        night(tmp_path, "c", 3, [one("hf")], "5.20.0"),
    ]  # fmt: skip
    line = line_of(lines_of(*runs), "hf")
    assert [(result.version, result.page, result.colour) for result in line.results] == [
        ("transformers 5.20.0", "c", "green"), ("transformers 5.19.0", "a", "green"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("records", "options", "colour", "word"),
    [
        ([one("te"), one("te", "PAD-01", status="UNSUPPORTED")], {}, "green", "1 of 2 pass"),
        ([one("te"), one("te", "PAD-01", **WRONG)], {"end": 1}, "red", "1 of 2 fail"),
        ([one("te"), one("te", "PAD-01", status="INCONCLUSIVE")], {}, "amber", "1 inconclusive"),
        ([one("te", status="UNAVAILABLE")], {}, "amber", "nothing judged"),
        ([one("te")], {"end": None}, "amber", "incomplete"),
        ([one("te")], {"planned": [one("te"), one("te", "PAD-01")]}, "amber", "incomplete"),
    ],
)
def test_what_proves_nothing_gets_no_green_badge(tmp_path: Path, records: list, options: dict, colour: str, word: str):
    (line,) = lines_of(write_run(tmp_path / "run", records, **options))
    assert (line.results[0].colour, line.results[0].word) == (colour, word)


def test_one_engines_failure_is_not_anothers(tmp_path: Path):
    found = lines_of(write_run(tmp_path / "run", [one("hf"), one("native", **WRONG)], end=1))
    assert (line_of(found, "hf").results[0].colour, line_of(found, "native").results[0].colour) == ("green", "red")


@pytest.mark.parametrize(("status", "word"), [("PASS", "conforms"), ("UNSUPPORTED", "does not conform")])
def test_a_profile_has_a_line_of_its_own(tmp_path: Path, status: str, word: str):
    directory = write_run(tmp_path / "run", [one("native", status=status)], end=None)
    with Recorder(directory) as recorder:
        recorder.write("profile", name="model-1.0", released=True, required={"ROUTE-01": ["float32"]})
        recorder.write("end", exit_status=0, lost=[path.name for path in directory.glob("*.jsonl")])
    (line,) = lines_of(directory)
    assert (line.profile, line.results[0].word) == ("model-1.0", word)


def test_only_what_another_engine_passes_is_failed_alone(tmp_path: Path):
    """ROUTE-01: alone. 02: both fail. 03: nobody else judged. 04: the other declares a gap. 05: another dtype."""
    rows = [
        one("native", **WRONG), one("hf"), one("native", "ROUTE-02", **WRONG), one("hf", "ROUTE-02", **WRONG),
        one("native", "ROUTE-03", **WRONG), one("native", "ROUTE-04", **WRONG), one("hf", "ROUTE-04", status="UNSUPPORTED"),
        one("native", "ROUTE-05", **WRONG), check("ROUTE-05", "hf", "mixtral", "bfloat16"),
    ]  # fmt: skip
    found = alone(newest([load_frame([write_run(tmp_path / "run", rows, end=1)])]))
    assert [(each.engine, each.check, each.places, each.others) for each in found] == [("native", "ROUTE-01", ("mixtral f32",), ("hf",))]


def test_variants_of_an_engine_fail_together(tmp_path: Path):
    rows = [one("hf:eager"), one("hf:grouped_mm", **WRONG), one("native")]
    (found,) = alone(newest([load_frame([write_run(tmp_path / "run", rows, end=1)])]))
    assert (found.engine, found.row["backend"]) == ("hf", "hf:grouped_mm")


def test_an_engines_newest_run_counts(tmp_path: Path):
    old = night(tmp_path, "old", 1, [one("native", **WRONG), one("hf")], end=1)
    new = night(tmp_path, "new", 2, [one("native")])
    assert not alone(newest([load_frame([new]), load_frame([old])]))


def test_a_page_is_compared_with_the_green_run_before_it(site: Path):
    text = (site / "runs" / "r2" / "index.html").read_text()
    assert "2026-03-01" in text and "1 new failure" in text
    assert "no earlier run to compare with" in (site / "runs" / "r1" / "index.html").read_text()


def test_three_runs_have_a_history(tmp_path: Path):
    nights = [night(tmp_path, f"r{day}", day, [one("native"), speed_samples.measured("decode", "native", 0.01 * day)]) for day in (1, 2, 3)]
    build_site(nights, tmp_path / "out")
    pages = [(tmp_path / "out" / "runs" / f"r{day}" / "index.html").read_text() for day in (1, 2, 3)]
    assert ['<section id="history">' in text for text in pages] == [False, False, True]
    assert "<polyline" in pages[2] and re.search(r"3\.0\d×|2\.9\d×", pages[2])


def test_hostile_names_are_names(tmp_path: Path):
    records = [one(EVIL, title=EVIL, **WRONG | {"reason": EVIL}) | {"case": EVIL}, one("hf") | {"case": EVIL}]
    run = write_run(tmp_path / "run", records, environment={"hostname": EVIL, "packages": {EVIL: EVIL}, "commit": EVIL}, end=1)
    build_site([run], tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert re.fullmatch(r"[a-z0-9.\-]+", path.name), path
        if path.suffix in (".html", ".svg"):
            found = Links(path.read_text())
            assert not {"script"} & found.tags and "98109" not in path.read_text()
            assert not [address for address in found.found if "etc" in address and not re.fullmatch(r"[a-z0-9.\-/]+", address)]
    for path in (tmp_path / "out" / "badges").iterdir():
        ElementTree.parse(path)


@pytest.mark.parametrize(
    ("backend", "name"), [("hf:eager", "hf"), ("native", "native"), ("my.pkg:make:x", "my.pkg:make:x"), (":x", ":x"), ("", "")]
)
def test_an_engine_is_a_backend_without_its_variant(backend: str, name: str):
    assert engine(backend) == name


def test_a_version_is_that_of_the_engines_package_or_the_commit(tmp_path: Path):
    run = load_frame([write_run(tmp_path / "run", [one("hf")], environment={"packages": packages(mypkg="7.1")})]).runs[0]
    assert [version(name, run) for name in ("hf", "native", "mypkg", "other")] == [
        "transformers 5.23.0", "commit d876d2164b", "mypkg 7.1", "commit d876d2164b",
    ]  # fmt: skip


def test_file_names_are_safe_and_never_collide():
    found = slugs(["a b", "a-b", "../x", "", "漢字", "A" * 200, "CON:1"])
    assert len(set(found.values())) == 7 and all(
        re.fullmatch(r"[a-z0-9.\-]+", slug) and not slug.startswith(".") for slug in found.values()
    )


def test_a_badge_says_its_state_in_words_and_says_what_was_emulated(tmp_path: Path):
    svg = badge("hf model-1.0", "3 of 9 fail", "red")
    assert svg.count("3 of 9 fail") == 3 and "hf model-1.0" in svg  # text, title, label
    ElementTree.fromstring(svg)
    build_site([write_run(tmp_path / "run", [one("te")])], tmp_path / "out")
    assert "te all checks (emulated)" in (tmp_path / "out" / "badges" / "te-all-checks.svg").read_text()


def test_the_command_makes_a_site(tmp_path: Path):
    run, out = write_run(tmp_path / "run", [one("hf")]), tmp_path / "out"
    done = CliRunner().invoke(application(), ["report", str(run), "--site", str(out)])
    assert (done.exit_code, (out / "index.html").is_file()) == (0, True) and "site:" in done.output
    for words in (["--baseline", str(run)], []):
        wrong = CliRunner().invoke(application(), ["report", str(run if words else tmp_path / "none"), "--site", str(out), *words])
        assert wrong.exit_code == 2


def test_unreadable_runs_and_the_same_twice_are_errors_and_write_nothing(tmp_path: Path):
    run = write_run(tmp_path / "run", [one("hf")])
    shutil.copytree(run, tmp_path / "copy" / "run")
    with pytest.raises(ValueError, match="run given twice: run"):
        build_site([run, tmp_path / "copy" / "run"], tmp_path / "out")
    with pytest.raises(ValueError, match="no run directory"):
        build_site([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_speeds_alone_replace_no_checks_unless_they_fail():
    checks = Result("native", "all checks", "1.0", "vm", "cpu", "2026-11-28T08", "a", "green", "9 of 9 pass")
    speeds = replace(checks, started="2026-11-28T09", page="b", word="2 of 2 pass", speeds_only=True)
    failing = replace(speeds, colour="red", word="1 of 2 fail")
    assert [line.results for line in lines([checks, speeds])] == [(checks,)]
    assert [line.results for line in lines([checks, failing])] == [(failing,)]
    assert [line.results for line in lines([speeds])] == [(speeds,)]
