"""Golden data: the manifest guards every file, and the models are worth comparing against."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import golden
from harness.cases import golden_root
from harness.golden_models import GOLDEN_CONFIGS, LOAD_RANGE, MAX_BITS_PER_BYTE, MIN_GAP
from implementations.checkpoint import Checkpoint


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden_root(), tmp_path / "golden"))


def test_committed_data_verify(copy: Path) -> None:
    seen = golden.verify(copy, rerun=False)
    assert [v.family for v in seen] == sorted(GOLDEN_CONFIGS)
    assert all(v.tokens >= 256 and v.oracle < 1e-6 for v in seen)


@pytest.mark.parametrize("name", ["mixtral/expected.safetensors", "qwen3_moe/checkpoint/model.safetensors", "heldout.txt"])
def test_a_flipped_bit_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(golden.GoldenError, match="was altered"):
        golden.verify(copy, rerun=False)


def test_missing_and_stray_files_are_found(copy: Path) -> None:
    (copy / "mixtral" / "stray.txt").write_text("?")
    with pytest.raises(golden.GoldenError, match="is not in the manifest"):
        golden.verify(copy, rerun=False)
    (copy / "mixtral" / "stray.txt").unlink()
    (copy / "heldout.txt").unlink()
    with pytest.raises(golden.GoldenError, match="is missing"):
        golden.verify(copy, rerun=False)


@pytest.mark.parametrize("family", sorted(GOLDEN_CONFIGS))
def test_checkpoint_is_the_one_that_is_described(family: str) -> None:
    with Checkpoint(golden_root() / family / "checkpoint") as checkpoint:
        assert checkpoint.config == GOLDEN_CONFIGS[family]


@pytest.mark.parametrize("family", sorted(GOLDEN_CONFIGS))
def test_training_reached_the_bars(family: str) -> None:
    facts = golden.read_manifest(golden_root())["families"][family]["training"]
    assert facts["loss"] < MAX_BITS_PER_BYTE
    assert LOAD_RANGE[0] <= facts["load_min"] and facts["load_max"] <= LOAD_RANGE[1]
    assert facts["gap_median"] >= MIN_GAP
