"""Single layers of true shape: what they are, what is said where they do not fit, and their gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_harness.bench import models
from moe_harness.bench.gate import gate
from moe_harness.bench.layer import judge_layer
from moe_harness.bench.models import ensure, layer_cases, layer_config, needed_bytes
from moe_harness.cases.cases import Case
from moe_harness.cases.synthetic import small, synthesize
from moe_harness.implementations.families.weights import canonical_shapes
from moe_harness.judge.verdict import Verdict, Violation
from moe_harness.mutants.catalogue import backend
from moe_harness.suite.subject import Subject, Unavailable, Workshop

MIXTRAL, QWEN = "mixtral-8x7b", "qwen3-30b-a3b"


@pytest.mark.parametrize(
    ("name", "gate_up", "down"),
    [(MIXTRAL, (8, 2 * 14336, 4096), (8, 4096, 14336)), (QWEN, (128, 2 * 768, 2048), (128, 2048, 768))],
)
def test_a_layer_has_the_models_true_shapes(name: str, gate_up: tuple[int, ...], down: tuple[int, ...]):
    shapes = canonical_shapes(layer_config(name))
    assert (shapes["layers.0.moe.gate_up.weight"], shapes["layers.0.moe.down.weight"]) == (gate_up, down)
    assert not any(tensor.startswith("layers.1.") for tensor in shapes)


def test_needed_bytes_by_hand():
    """Mixtral: experts 8 x 3 x 4096 x 14336 = 1409.3 M, attention 41.9 M, router and embeddings 8.4 M: 1459.6 M parameters, twice in two
    bytes and once as stored, and one expert of 176 M in eight."""
    assert needed_bytes(layer_config(MIXTRAL), "bfloat16") == pytest.approx(6 * 1459.6e6 + 8 * 176.2e6, rel=1e-3)
    assert needed_bytes(layer_config(MIXTRAL), "float32") == pytest.approx(10 * 1459.6e6 + 8 * 176.2e6, rel=1e-3)


def test_what_does_not_fit_is_unavailable_with_its_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MOE_HARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "available_bytes", lambda: 9_000_000_000)
    (case,) = [case for case in layer_cases() if case.name == f"{MIXTRAL}-layer"]
    with pytest.raises(Unavailable, match=r"mixtral-8x7b-layer in bfloat16 needs 101\d{8} bytes of memory, 9000000000 are free"):
        ensure(case, "bfloat16")
    assert not any(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MOE_HARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "available_bytes", lambda: None)
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(Unavailable, match=r"needs \d+ bytes of disk, 10 are free"):
        ensure(layer_cases()[1], "bfloat16")


@pytest.fixture
def layer(tmp_path: Path) -> Case:
    return Case("layer", synthesize(small("mixtral"), tmp_path / "checkpoint"))


def judged(case: Case, variant: str | None, directory: Path) -> Verdict:
    subject, verdict = Subject(backend(variant), case, "float32", Workshop(directory)), Verdict()
    judge_layer(subject, subject.model(), verdict)
    return verdict


def test_an_honest_layer_passes_its_gate(layer: Case, tmp_path: Path):
    verdict = judged(layer, None, tmp_path)
    assert {"uncertified_selections", "block_error", "worst_token_error"} <= set(verdict.metrics)


@pytest.mark.parametrize("fault", ["gate-up-swapped", "rank-off-by-one"])
def test_a_wrong_layer_does_not(layer: Case, tmp_path: Path, fault: str):
    with pytest.raises(Violation):
        judged(layer, fault, tmp_path)


def test_the_gate_asks_a_layer_as_a_layer(layer: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    subject = Subject(backend(), layer, "float32", Workshop(tmp_path))
    monkeypatch.setattr("moe_harness.bench.gate.layer_cases", lambda: [layer])
    assert "block_error" in {metric["name"] for metric in gate(subject, subject.model())["gate"]}
