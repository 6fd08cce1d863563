"""Which checkpoint a conversion is timed on, and what it is held against."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_harness.bench import conversion
from moe_harness.bench.conversion import Conversion, original, sample, size_of
from moe_harness.cases.cases import Case
from moe_harness.cases.describe import read_model
from moe_harness.cases.synthetic import small, synthesize
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.interface import Unsupported
from moe_harness.mutants.catalogue import backend
from moe_harness.suite.subject import Subject, Unavailable, Workshop


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    config = small("mixtral", num_hidden_layers=3, moe_layers=(0, 1, 2))
    shop = tmp_path / "shop"
    shop.mkdir()
    return Subject(backend(), Case("model", synthesize(config, tmp_path / "checkpoint")), "float32", Workshop(shop))


def test_a_small_checkpoint_is_taken_whole(subject: Subject):
    assert original(subject, whole=False) == subject.case.checkpoint


def test_of_a_large_one_a_layer_of_its_shapes_is_taken(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conversion, "LARGEST", size_of(subject.case.checkpoint) - 1)
    with Checkpoint(original(subject, whole=False)) as taken:
        assert taken.config == sample(subject.config) and taken.config.num_hidden_layers == 1
        assert taken.config.routing.num_experts == subject.config.routing.top_k
    assert original(subject, whole=True) == subject.case.checkpoint


def test_a_layer_that_is_too_large_is_a_gap_with_its_bytes(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conversion, "LARGEST", 1000)
    with pytest.raises(Unsupported, match=r"one layer of this model is \d+ bytes, more than the 1000 that are converted without --wide"):
        original(subject, whole=False)


def test_a_disk_that_is_too_small_is_said(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(Unavailable, match=r"converting needs \d+ bytes of disk, 10 are free"):
        original(subject, whole=True)


def test_groups_keep_their_experts():
    grouped = small("dots1", num_experts=16)
    assert grouped.routing.num_groups > 1 and sample(grouped).routing == grouped.routing
    assert sample(read_model("qwen3-30b-a3b")).routing.num_experts == 8


def test_the_ratio_is_of_the_copies_beside_the_timed_conversions(tmp_path: Path):
    """Of five rounds the first three warmed up. Copies of 2 s against conversions of 4 s: half the bytes per second."""
    (tmp_path / "file").write_bytes(b"12345")
    job = Conversion(backend(), "from_hf", tmp_path, tmp_path, tmp_path / "scratch", copy_s=[9.0, 9.0, 9.0, 1.0, 3.0])
    assert job.against_copy([4.0, 4.0]) == {"bytes": 5, "samples": [1.0, 3.0], "ratio": 0.5}
