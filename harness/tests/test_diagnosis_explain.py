"""`explain`: every kind of capsule told in words, with its exit code; and two failing runs, from the command to the bug."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moe_harness.cases.cases import named_cases
from moe_harness.checks import test_block, test_cache
from moe_harness.checks.in_process import checks_of
from moe_harness.cli.app import application
from moe_harness.diagnosis.account import diagnosed
from moe_harness.diagnosis.diagnose import diagnose, explain_by_catalogue
from moe_harness.diagnosis.jury import answered_by, ask
from moe_harness.diagnosis.rejudge import rejudge
from moe_harness.emulator.honest import HONEST
from moe_harness.judge.exhibit import RECORD, Exhibit
from moe_harness.mutants.catalogue import FAULTS, SPECIFICATION, backend
from moe_harness.records.record import read_run
from moe_harness.repro.capsule import FOLDER, Capsule
from moe_harness.repro.storage import read, write
from moe_harness.run.launch import pytest_command
from moe_harness.selftest.diagnoses import experiment
from moe_harness.suite.run_spec import RunSpec
from moe_harness.suite.subject import Subject, Workshop

# (candidate, check, a word of its operator): a router, a block whose experts are wrong, one whose sum is, and a model
FAILING = {
    "router": ("uniform-weights@sum-tree#1", "ROUTE-05", "routing weights"),
    "experts": ("gelu-for-silu@weights-in-float32#1", "BLOCK-01", "experts"),
    "sum": ("weights-applied-twice@gate-by-tanh#1", "BLOCK-01", "combine"),
    "model": ("decode-position-off-by-one@softmax-in-float64#1", "CACHE-01", "positions"),
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("explain"))


@pytest.fixture(scope="module")
def capsules(workshop) -> dict[str, Capsule]:
    found = {}
    for name, (candidate, check, _) in FAILING.items():
        found[name] = experiment(checks_of([check])[0], Subject(backend(candidate), named_cases()["mixtral"], "float32", workshop))
    return found


def explain(path: Path):
    return CliRunner().invoke(application(), ["explain", str(path)])


@pytest.mark.parametrize("kind", FAILING)
def test_every_kind_is_told_in_words(kind, capsules, tmp_path):
    candidate, check, operator = FAILING[kind]
    told = explain(write(capsules[kind], tmp_path))
    fault = candidate.split("@")[0]
    assert told.exit_code == 0, told.output
    assert f"{check} failed: " in told.output and "at most" in told.output and "times the bound" in told.output
    assert f"{fault}: " in told.output and operator in told.output
    assert "honest implementations pass on the same input" in told.output


@pytest.mark.parametrize("kind", FAILING)
def test_without_the_fault_among_the_hypotheses_none_fits(kind, capsules):
    fault = FAILING[kind][0].split("@")[0]
    found = diagnose(capsules[kind].exhibit, [f for f in FAULTS if f.id != fault])
    assert found.answer is not None and not found.answer.accepted and found.answer.tried > 30
    assert found.finding.operators and found.finding.evidence


@pytest.mark.parametrize("kind", FAILING)
def test_an_honest_answer_to_the_same_question_passes(kind, capsules):
    answered = replace(capsules[kind], exhibit=answered_by(capsules[kind].exhibit, HONEST))
    assert not any(metric.violated for metric in rejudge(answered))
    assert explain_by_catalogue(answered.exhibit).accepted == ()  # where nothing is wrong, nothing is to be explained


def test_honest_kinds_pass_where_the_candidate_failed(capsules):
    jury = ask(capsules["experts"])
    assert jury is not None and jury.asked >= 10 and jury.passed >= 0.9 * jury.asked


def test_a_capsule_that_does_not_fail_again_says_so(capsules, tmp_path):
    capsule = capsules["experts"]
    right = replace(capsule, exhibit=answered_by(capsule.exhibit, HONEST))
    told = explain(write(right, tmp_path))
    assert told.exit_code == 1 and "it passes" in told.output


def test_a_record_without_arrays_is_told_and_not_diagnosed(capsules, tmp_path):
    told = explain(write(replace(capsules["experts"], exhibit=Exhibit(RECORD), reproduce="moe-harness run -k x"), tmp_path))
    assert told.exit_code == 0 and "leaves no arrays" in told.output and "cannot be tried" in told.output
    assert "moe-harness run -k x" in told.output
    with pytest.raises(ValueError, match="cannot be diagnosed"):
        diagnose(Exhibit(RECORD))


def test_a_bad_file_is_one_line_and_exit_code_2(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing")
    for told in (explain(path), explain(tmp_path / "nowhere")):
        assert told.exit_code == 2 and "Traceback" not in told.output


def test_weights_left_out_leave_a_verdict_without_a_bug(capsules, tmp_path):
    exhibit = capsules["experts"].exhibit
    expected = exhibit.oracle.moe_block(0, exhibit.arrays["x_TD"], exhibit.arrays["ids_TK"])[0].astype(np.float32)
    bare = replace(exhibit, tensors={}, arrays={**exhibit.arrays, "expected_TD": expected})
    told = explain(write(replace(capsules["experts"], exhibit=bare), tmp_path))
    assert told.exit_code == 0 and "holds no weights" in told.output


def test_a_capsule_beside_it_tells_two_explanations_apart(workshop, tmp_path):
    """With all weights zero, several bugs leave nothing of the shared expert; with weights that are not, one of them does."""
    subject = Subject(backend("shared-expert-forgotten@sum-tree#1"), named_cases()["qwen2_moe"], "float32", workshop)
    zero, other = (experiment(checks_of([check])[0], subject) for check in ("BLOCK-10", "BLOCK-03"))
    path = write(zero, tmp_path)
    assert len(diagnosed(read(path), path).answer.accepted) > 1
    write(other, tmp_path)
    assert [h.fault.id for h in diagnosed(read(path), path).answer.accepted] == ["shared-expert-forgotten"]  # type: ignore[union-attr]


@pytest.mark.parametrize("fault, check, test", [
    ("last-expert-never-runs", "BLOCK-02", test_block.test_every_expert_equals_oracle),
    ("decode-position-off-by-one", "CACHE-01", test_cache.test_decode_equals_full_pass),
])  # fmt: skip
def test_a_failing_run_leaves_a_capsule_that_names_the_bug(fault, check, test, tmp_path):
    name = f"{SPECIFICATION}:{fault}"
    asked = RunSpec([name], dtype=["float32"], keyword=f"{test.__name__} and mixtral", workers=0)
    *command, folder = pytest_command("checks", asked, tmp_path / "run")
    file = Path(folder) / f"{test.__module__.split('.')[-1]}.py"
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    (record,) = [r for r in read_run(tmp_path / "run") if r["type"] == "check"]
    assert record["status"] == "FAIL" and record["capsule"].startswith(f"{FOLDER}/{check}-"), done.stdout
    told = subprocess.run(
        [sys.executable, "-m", "moe_harness", "explain", str(tmp_path / "run" / record["capsule"])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0 and f"{fault}: " in told.stdout, told.stdout + told.stderr


def test_explaining_imports_no_framework(capsules, tmp_path):
    path = write(capsules["experts"], tmp_path)
    probe = (
        "import sys; from pathlib import Path; from moe_harness.repro.storage import read;"
        "from moe_harness.diagnosis.account import account;"
        "account(read(Path(sys.argv[1])), Path(sys.argv[1]));"
        "print(sorted({'torch', 'transformers', 'pytest', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
