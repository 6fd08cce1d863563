"""Known failures from the adopter's file: what is excused, what is a new failure, and what a bad file is told."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records.frame import load_frame
from moe_harness.records.record import Recorder, read_run
from moe_harness.report.verdict import exit_code
from moe_harness.run.expectations import Expectation, ExpectationError, fates, judge, load
from moe_harness.tests.report_samples import check

pytest_plugins = ["pytester"]
HONEST = "moe_harness.mutants.catalogue:backend"
BACKENDS = '''
import os
from moe_harness.implementations.interface import Capabilities, Unsupported

class Silent:
    """Declares nothing: every check is UNSUPPORTED at once."""
    name, features, families = "silent", (), ()

    def capabilities(self):
        return Capabilities(features=self.features, families=self.families, dtypes=("float32", "bfloat16"), reads_hf=True)

    def from_hf(self, src, dst):
        raise Unsupported("nothing here")

    to_hf = load = from_hf

class Broken(Silent):
    name, features, families = "broken", ("prefill", "probe", "router"), ("mixtral", "qwen3_moe")

    def load(self, path, spec):
        if self.name == "aborting":
            os.abort()
        raise RuntimeError("kernel 7 is not there")

def silent(variant=None):
    return Silent()

def broken(variant=None):
    made = Broken()
    made.name = variant or "broken"
    return made
'''
ENTRY = {
    "check": '"ROUTE-09"',
    "signature": '"kernel \\\\d"',
    "reason": '"the kernel is <b>late</b>"',
    "url": '"https://example.org/issues/7"',
    "expires": "2999-12-31",
}
SELECTION = ("--dtype", "float32", "-k", "ROUTE-09 and mixtral")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "backends.py").write_text(BACKENDS)
    return tmp_path


def write(path: Path, *changes: dict[str, str | None]) -> Path:
    """One entry for each of `changes` to ENTRY; None drops a key."""
    entries = [{key: value for key, value in (ENTRY | change).items() if value is not None} for change in changes]
    path.write_text("\n".join("[[expect]]\n" + "\n".join(f"{key} = {value}" for key, value in entry.items()) for entry in entries))
    return path


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(application(), ["run", "--run-dir", "run", "--expect", "known.toml", *map(str, arguments)])
    return result.exit_code, result.output


def judged(folder: Path) -> dict[str, Any]:
    (found,) = (record for record in read_run(folder / "run") if record["type"] == "check")
    return found


def test_a_known_failure_is_no_failure(folder: Path) -> None:
    write(folder / "known.toml", {"backend": '"backends:*"', "dtype": '"float*"'})
    code, output = run("--backend", "backends:broken", *SELECTION)
    found = judged(folder)
    assert code == 0, output
    assert found["status"] == "KNOWN" and found["expected"] == {
        "source": "known.toml, entry 1",
        "reason": "the kernel is <b>late</b>",
        "url": "https://example.org/issues/7",
        "expires": "2999-12-31",
    }
    assert found["reason"].startswith("the kernel is <b>late</b> (https://example.org/issues/7, until 2999-12-31): RuntimeError: kernel 7")
    page = (folder / "reports" / "latest" / "index.html").read_text()
    assert "the kernel is &lt;b&gt;late&lt;/b&gt; (until 2999-12-31)" in page and 'href="https://example.org/issues/7"' in page


def test_measured_values_survive_a_known_failure(folder: Path) -> None:
    write(folder / "known.toml", {"signature": '"uncertified_selections"'})
    assert run("--backend", f"{HONEST}:rank-off-by-one", *SELECTION)[0] == 0
    assert judged(folder)["status"] == "KNOWN" and any(metric["value"] > 0 for metric in judged(folder)["metrics"])


def test_a_worker_that_dies_may_be_known(folder: Path) -> None:
    write(folder / "known.toml", {"signature": '"SIGABRT"'})
    code, output = run("--backend", "backends:broken:aborting", "--workers", "2", *SELECTION)
    assert code == 0 and judged(folder)["status"] == "KNOWN", output


@pytest.mark.parametrize(
    ("backend", "change", "sentence"),
    [
        (
            "backends:broken",
            {"signature": '"kernel 8"'},
            "changed signature: known.toml, entry 1 expects 'kernel 8', but: RuntimeError: kernel",
        ),
        ("backends:broken", {"expires": "2020-02-29"}, "expired on 2020-02-29: known.toml, entry 1: RuntimeError: kernel 7"),
        ("backends:broken", {"case": '"qwen3*"'}, "RuntimeError: kernel 7 is not there"),
        (HONEST, {}, "unexpected pass: the check passes, so remove or narrow known.toml, entry 1"),
    ],
)
def test_what_the_file_does_not_describe_is_new(folder: Path, backend: str, change: dict, sentence: str) -> None:
    write(folder / "known.toml", change)
    code, output = run("--backend", backend, *SELECTION)
    found = judged(folder)
    assert code == 1 and found["status"] in ("FAIL", "CRASHED") and found["expected"] is None, output
    assert found["reason"].startswith(sentence)


def test_every_worker_knows_the_file(folder: Path) -> None:
    write(folder / "known.toml", {"backend": '"*broken"'}, {"case": '"qwen*"', "signature": '"kernel 8"'})
    code, output = run("--backend", "backends:broken", "--workers", "2", "--dtype", "float32", "-k", "ROUTE-09 and (mixtral or qwen3_moe)")
    found = {record["case"]: record["status"] for record in read_run(folder / "run") if record["type"] == "check"}
    assert (code, found) == (0, {"mixtral": "KNOWN", "qwen3_moe": "KNOWN"}), output


def test_a_stale_entry_fails_a_whole_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder / "known.toml", {"check": '"CONV-01"', "dtype": '"bfloat16"'}, {}, {"backend": '"another"'})
    code, output = run("--backend", "backends:silent", "--workers", "2")
    sentence = "stale entry: known.toml, entry 1 (CONV-01) is about no check of this run; remove it"
    assert code == 1 and capfd.readouterr().out.count(sentence) == 1, output
    latest = folder / "reports" / "latest"
    assert (latest / "index.html").read_text().count(sentence) == 1
    assert f"{sentence}" in (latest / "junit.xml").read_text()
    assert "not asked in this selection: known.toml, entry 3 (ROUTE-09)" in (latest / "report.md").read_text()
    assert "left no failing record" not in (latest / "report.md").read_text()


def test_a_stale_entry_alone_is_exit_1(tmp_path: Path) -> None:
    about = {"source": "known.toml, entry 1", "check": "ROUTE-09", "reason": "late", "url": "https://example.org", "expires": "2999-12-31"}
    for fate, code in (("stale", 1), ("covers", 0), ("not asked", 0)):
        with Recorder(tmp_path / fate) as recorder:
            recorder.write("run", run_id=fate)
            recorder.write("expectations", entries=[about | {"fate": fate}])
            recorder.write("check", **check("ROUTE-01", "native", "mixtral", "float32"))
            recorder.write("end", exit_status=0)
        assert exit_code(load_frame([tmp_path / fate])) == code


def test_a_narrowed_run_knows_nothing_about_the_rest(folder: Path) -> None:
    write(folder / "known.toml", {"check": '"CONV-01"', "dtype": '"bfloat16"'})
    code, output = run("--backend", HONEST, *SELECTION)
    assert code == 0, output
    assert "not asked in this selection: known.toml, entry 1 (CONV-01)" in (folder / "reports" / "latest" / "report.md").read_text()


def test_plain_pytest_takes_the_file_and_exits_by_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(backends=BACKENDS)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
    write(pytester.path / "known.toml", {})
    known = pytester.runpytest_subprocess("-q", "--backend", "backends:broken", "--expect", "known.toml", *SELECTION)
    known.assert_outcomes(xfailed=1)
    assert known.ret == 0
    write(pytester.path / "known.toml", {"check": '"CONV-01"', "dtype": '"bfloat16"'})
    stale = pytester.runpytest_subprocess("-q", "--backend", "backends:silent", "--expect", "known.toml")
    assert stale.ret == 1 and "stale entry: known.toml, entry 1" in stale.stdout.str()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"check": '"ROUTE-99"'}, "known.toml, entry 2: check = 'ROUTE-99': no such clause"),
        ({"backends": '"x"'}, "known.toml, entry 2: unknown key 'backends'"),
        ({"reason": None}, "known.toml, entry 2: no 'reason'"),
        ({"url": None}, "known.toml, entry 2: no 'url'"),
        ({"url": '"javascript:alert(1)"'}, "known.toml, entry 2: url = 'javascript:alert(1)': not a http(s) address"),
        ({"expires": '"2026-12-31"'}, "known.toml, entry 2: expires = '2026-12-31': not a date"),
        ({"expires": "2026-12-31T00:00:00"}, "known.toml, entry 2: expires = 2026-12-31T00:00:00: not a date"),
        ({"expires": "2026-13-31"}, "known.toml: "),
        ({"signature": '"("'}, "known.toml, entry 2: signature = '(': not a regular expression"),
        ({"signature": '".*"'}, "known.toml, entry 2: signature = '.*': matches every failure"),
        ({"dtype": "16"}, "known.toml, entry 2: dtype = 16: not a text"),
        ({"reason": '" "'}, "known.toml, entry 2: reason = ' ': not a text"),
    ],
)
def test_a_bad_entry_is_named(folder: Path, change: dict, message: str) -> None:
    path = write(folder / "known.toml", {}, change).relative_to(folder)
    with pytest.raises(ExpectationError) as caught:
        load([path], {"ROUTE-09"})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("text", "message"), [("expect = 1", "only [[expect]]"), ("[other]\n", "not 'other'"), (None, "No such file")])
def test_a_file_that_is_none_is_a_usage_error(folder: Path, text: str | None, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    if text is not None:
        (folder / "known.toml").write_text(text)
    assert run("--backend", HONEST)[0] == 2
    assert message in capfd.readouterr().err and not (folder / "run").exists()


PLACE = {"check": "ROUTE-09", "backend": "mine", "case": "mixtral", "dtype": "float32"}


def entry(folder: Path, change: dict[str, str | None]) -> Expectation:
    return load([write(folder / "known.toml", change)], {"ROUTE-09", "CONV-01"})[0]


@pytest.mark.parametrize("status", ["INCONCLUSIVE", "UNSUPPORTED", "UNAVAILABLE"])
def test_a_gap_stays_a_gap(folder: Path, status: str) -> None:
    assert judge([entry(folder, {})], PLACE, status, "kernel 7").status == status


@pytest.mark.parametrize("status", ["FAIL", "CRASHED", "TIMEOUT"])
def test_the_last_day_still_excuses(folder: Path, status: str) -> None:
    known = entry(folder, {"expires": "2026-12-31"})
    assert judge([known], PLACE, status, "kernel 7", date(2026, 12, 31)).status == "KNOWN"
    assert judge([known], PLACE, status, "kernel 7", date(2027, 1, 1)).status == status


def test_one_of_several_entries_is_enough(folder: Path) -> None:
    known = [entry(folder, {"signature": '"kernel 8"'}), entry(folder, {"expires": "2020-01-01"}), entry(folder, {})]
    assert judge(known, PLACE, "FAIL", "kernel 7").status == "KNOWN"
    assert judge(known[:2], PLACE, "FAIL", "kernel 7").reason.startswith("expired")
    assert judge(known[:1], PLACE, "FAIL", "kernel 7").reason.startswith("changed signature")


def test_fates(folder: Path) -> None:
    known = [entry(folder, {}), entry(folder, {"check": '"CONV-01"'}), entry(folder, {"check": '"CONV-01"', "backend": '"another"'})]
    assert [each["fate"] for each in fates(known, [PLACE], {"mine"}, narrowed=False)] == ["covers", "stale", "not asked"]
    assert [each["fate"] for each in fates(known, [PLACE], {"mine"}, narrowed=True)] == ["covers", "not asked", "not asked"]
