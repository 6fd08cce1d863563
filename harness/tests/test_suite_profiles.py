"""Profiles: frozen lists, and what a run says about conformance."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cases.describe import read_model
from moe_harness.checks import clauses
from moe_harness.cli.app import application
from moe_harness.kernel.run import Suite
from moe_harness.records.frame import load_frame
from moe_harness.records.record import Recorder, read_run
from moe_harness.report.junit import junit
from moe_harness.report.markdown import markdown
from moe_harness.report.page import page
from moe_harness.report.profile import conformances
from moe_harness.report.verdict import exit_code
from moe_harness.suite import profiles
from moe_harness.tests.report_samples import check

# sha256 of every released list. A profile is a promise to those who say "conforms to model-1.0".
FROZEN: dict[str, str] = {
    "kernel-1.0": "b9eb6d59b56e5ce60bfcf120c813f9c9dcba391b5c552316eda0a9a40ea52ec9",
    "model-1.0": "b6f82c1eaacf9f34d1f577f34e592de045d614ca309a92db0e26dfbb876fb596",
}
HONEST = "moe_harness.mutants.catalogue:backend"


@pytest.mark.parametrize("name", profiles.names())
def test_a_released_list_never_changes(name: str) -> None:
    found = profiles.load(name)
    if found.released:
        next_version = f"{name.rpartition('.')[0]}.{int(name.rpartition('.')[2]) + 1}"
        assert FROZEN.get(name) == found.sha256, f"{name} is released: leave its file as it was and write {next_version}"
    assert found.released == (name in FROZEN)


def test_every_clause_of_a_model_profile_exists() -> None:
    for found in map(profiles.load, profiles.names()):
        if found.kind == "model":
            assert found.required and found.required.keys() <= set(clauses()), sorted(found.required.keys() - set(clauses()))
            assert set(found.dtypes) <= {"float32", "bfloat16", "float16"}


@pytest.mark.parametrize(
    "text",
    [
        "kind = 'model'\nreleased = false",
        "kind = 'other'\nreleased = false\n[required]",
        "kind = 'model'\nreleased = 'no'\n[required]",
        "kind = 'model'\nreleased = false\nextra = 1\n[required]",
        "kind = 'model'\nreleased = false\n[required]\nROUTE-01 = 'float32'",
        "kind = 'model'\nreleased = false\n[required]\nROUTE-01 = []",
        "kind",
    ],
)
def test_a_file_that_is_no_profile_is_refused(text: str) -> None:
    with pytest.raises(profiles.ProfileError, match="^x: "):
        profiles.parse("x", text.encode())


def test_kernel_cases_fit_into_a_profile() -> None:
    content = b"kind = 'kernel'\nreleased = false\n[required]\n'E8 k2, 17 tokens: flat' = ['float32', 'bfloat16']\n"
    found = profiles.parse("kernel-9.9", content)
    assert found.asks("E8 k2, 17 tokens: flat", "bfloat16") and not found.asks("E8 k2, 17 tokens: flat", "float16")


def test_every_case_of_the_kernel_profile_exists() -> None:
    required = profiles.load("kernel-1.0").required
    for model in ("mixtral-8x7b", "qwen3-30b-a3b"):
        cases = Suite(read_model(model), "bfloat16").cases()
        assert required.keys() == {case.name for case in cases if not case.needs}


def test_gaps_of_a_kernel() -> None:
    profile = profiles.parse("k", b"kind = 'kernel'\nreleased = false\n[required]\na = ['bfloat16']\nb = ['bfloat16', 'float32']\n")
    assert profile.gaps({"a": "PASS", "b": "PASS", "c": "FAIL"}, "bfloat16") == {}
    assert profile.gaps({"a": "UNSUPPORTED"}, "bfloat16") == {"a": "UNSUPPORTED", "b": "NOT RUN"}
    assert profile.gaps({}, "float32") == {"b": "NOT RUN"}


KERNEL = """
import numpy as np

def fused(x, topk_ids, topk_weights, w_gate_up, w_down):
    y_TD = np.zeros(x.shape, np.float32)
    for slot in range(topk_ids.shape[1]):
        for e in np.unique(topk_ids[:, slot]):
            rows = topk_ids[:, slot] == e
            gate, up = np.split(x[rows] @ w_gate_up[e].T, 2, axis=-1)
            y_TD[rows] += topk_weights[rows, slot, None] * (gate * np.exp(-np.logaddexp(0, -gate)) * up @ w_down[e].T)
    return y_TD
"""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--dtype", "bf16", "--no-true-shape"],
            1,
            "kernel-1.0: kernels:fused does not conform: true-1 NOT RUN",
        ),
        (["--dtype", "fp16"], 2, "kernel-1.0: asks nothing of a kernel in float16"),
    ],
)
def test_a_kernel_is_held_to_its_profile(folder: Path, arguments: list[str], code: int, message: str) -> None:
    (folder / "kernels.py").write_text(KERNEL)
    command = ["kernel", "kernels:fused", "--like", "mixtral-8x7b", "--arrays", "numpy", "--profile", "kernel-1.0", *arguments]
    result = CliRunner().invoke(application(), command)
    assert (result.exit_code, message in result.output) == (code, True), result.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(application(), ["run", "--run-dir", "run", "--workers", "0", *arguments])
    return result.exit_code, result.output


def test_a_run_is_asked_exactly_what_the_profile_lists(folder: Path) -> None:
    code, output = run("--backend", HONEST, "--profile", "model-1.0", "-k", "mixtral and ROUTE-09")
    records = read_run(folder / "run")
    (plan,) = (record["items"] for record in records if record["type"] == "plan")
    (asked,) = (record for record in records if record["type"] == "profile")
    assert [(item["check"], item["dtype"]) for item in plan] == [("ROUTE-09", dtype) for dtype in asked["required"]["ROUTE-09"]]
    left_out = {item["check"] for item in asked["omitted"]}
    assert "ROUTE-01" in left_out and "ROUTE-09" not in left_out and left_out <= asked["required"].keys()
    # Nothing failed, but what -k left out was not shown to conform.
    assert code == 1 and "does not conform on mixtral: BATCH-01 left out" in output, output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "model-9.9"], "no profile 'model-9.9'; known: "),
        (["--profile", "kernel-1.0"], "lists cases of `moe-harness kernel`"),
        (["--profile", "model-1.0", "--dtype", "float32"], "goes with neither --dtype nor --benchmark"),
    ],
)
def test_a_profile_that_cannot_be_judged_is_a_usage_error(
    folder: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("--backend", HONEST, *arguments)[0] == 2
    assert message in capfd.readouterr().err and not (folder / "run").exists()


REQUIRED = {"ROUTE-01": ["float32", "bfloat16"], "BLOCK-01": ["float32"], "GEN-01": ["float32"]}


def recorded(folder: Path, statuses: dict[str, str], **profile: Any) -> Path:
    """A run of `native` on two cases, asked for a profile of three clauses; BLOCK-01 in bfloat16 is judged but not required."""
    with Recorder(folder) as recorder:
        recorder.write("run", run_id=folder.name)
        recorder.write("profile", **{"name": "model-1.0", "released": True, "required": REQUIRED, "omitted": []} | profile)
        for name in ("ROUTE-01", "BLOCK-01", "GEN-01"):
            for case in ("mixtral", "qwen3_moe"):
                for dtype in ("float32", "bfloat16"):
                    status = statuses.get(f"{name} {case} {dtype}", "PASS")
                    if status:
                        recorder.write("check", **check(name, "native", case, dtype, status=status, reason="so it is"))
        recorder.write("end", exit_status=0)
    return folder


@pytest.mark.parametrize(
    ("statuses", "code", "sentence"),
    [
        ({}, 0, "model-1.0: native conforms on mixtral, qwen3_moe"),
        ({"BLOCK-01 mixtral bfloat16": "UNSUPPORTED"}, 0, "model-1.0: native conforms on mixtral, qwen3_moe"),
        ({"ROUTE-01 mixtral bfloat16": "UNSUPPORTED"}, 1, "model-1.0: native does not conform on mixtral, qwen3_moe: ROUTE-01 UNSUPPORTED"),
        ({"ROUTE-01 mixtral float32": "KNOWN"}, 1, "model-1.0: native does not conform on mixtral, qwen3_moe: ROUTE-01 KNOWN"),
        (
            {"ROUTE-01 mixtral float32": "UNSUPPORTED", "ROUTE-01 qwen3_moe float32": "FAIL", "GEN-01 mixtral float32": "INCONCLUSIVE"},
            1,
            "model-1.0: native does not conform on mixtral, qwen3_moe: GEN-01 INCONCLUSIVE, ROUTE-01 FAIL",
        ),
        (
            {f"GEN-01 {case} {dtype}": "" for case in ("mixtral", "qwen3_moe") for dtype in ("float32", "bfloat16")},
            0,
            "model-1.0: native conforms on mixtral, qwen3_moe (not asked of these models: GEN-01)",
        ),
    ],
)
def test_only_passing_conforms(tmp_path: Path, statuses: dict[str, str], code: int, sentence: str) -> None:
    frame = load_frame([recorded(tmp_path / "run", statuses)])
    assert [found.sentence for found in conformances(frame)] == [sentence]
    assert exit_code(frame) == code
    assert sentence in page(frame) and sentence.replace("_", "\\_").replace("\\_moe", "_moe") in markdown(frame)
    assert (f'message="{sentence}"' in junit(frame)) == bool(code)


def test_what_was_left_out_or_not_run_is_no_conformance(tmp_path: Path) -> None:
    omitted = [{"check": "GEN-01", "backend": "native", "case": "mixtral", "dtype": "float32"}]
    assert exit_code(load_frame([recorded(tmp_path / "narrowed", {}, omitted=omitted)])) == 1
    with Recorder(tmp_path / "killed") as recorder:
        item = check("ROUTE-01", "native", "mixtral", "float32")
        recorder.write("run", run_id="killed")
        recorder.write("profile", name="model-1.0", released=False, required=REQUIRED, omitted=[])
        recorder.write("plan", items=[{key: item[key] for key in ("node", "check", "backend", "case", "dtype", "title")}])
    frame = load_frame([tmp_path / "killed"])
    assert exit_code(frame) == 4
    assert conformances(frame)[0].sentence.startswith("model-1.0 (draft): native does not conform on mixtral: ROUTE-01 NOT RUN (not asked")
