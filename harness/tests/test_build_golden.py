"""Golden data: the manifest guards every file, and the models are worth comparing against."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moe_harness.build_golden import build
from moe_harness.cases.cases import Case, golden_root
from moe_harness.cases.golden_models import GOLDEN_CONFIGS, LOAD_RANGE, MAX_BITS_PER_BYTE, MIN_GAP
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.oracle import routing


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden_root(), tmp_path / "golden"))


def test_committed_data_verify(copy: Path) -> None:
    seen = build.verify(copy, rerun=False)
    assert [v.family for v in seen] == sorted(GOLDEN_CONFIGS)
    assert all(v.tokens >= 256 and v.oracle < 1e-6 for v in seen)


@pytest.mark.parametrize("name", ["mixtral/expected.safetensors", "qwen3_moe/checkpoint/model.safetensors", "heldout.txt"])
def test_a_flipped_bit_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(build.GoldenError, match="was altered"):
        build.verify(copy, rerun=False)


def test_missing_and_stray_files_are_found(copy: Path) -> None:
    (copy / "mixtral" / "stray.txt").write_text("?")
    with pytest.raises(build.GoldenError, match="is not in the manifest"):
        build.verify(copy, rerun=False)
    (copy / "mixtral" / "stray.txt").unlink()
    (copy / "heldout.txt").unlink()
    with pytest.raises(build.GoldenError, match="is missing"):
        build.verify(copy, rerun=False)


@pytest.mark.parametrize("family", sorted(GOLDEN_CONFIGS))
def test_checkpoint_is_the_one_that_is_described(family: str) -> None:
    with Checkpoint(golden_root() / family / "checkpoint") as checkpoint:
        assert checkpoint.config == GOLDEN_CONFIGS[family]


@pytest.mark.parametrize("family", sorted(GOLDEN_CONFIGS))
def test_training_reached_the_bars(family: str) -> None:
    facts = build.read_manifest(golden_root())["families"][family]["training"]
    assert facts["loss"] < MAX_BITS_PER_BYTE
    assert LOAD_RANGE[0] <= facts["load_min"] and facts["load_max"] <= LOAD_RANGE[1]
    assert facts["gap_median"] >= MIN_GAP


@pytest.mark.parametrize("family", sorted(GOLDEN_CONFIGS))
def test_labels_are_the_prompts_with_gaps(family: str) -> None:
    expected = load_file(golden_root() / family / "expected.safetensors")
    labels_BS, prompts_BS = expected["labels_BS"], expected["input_ids_BS"]
    kept = labels_BS != -100
    assert np.array_equal(labels_BS[kept], prompts_BS[kept]) and labels_BS.dtype == np.int64
    assert (~kept).any(1).all() and kept.sum(1)[-1] == 3 and kept.sum(1).min() >= 3
    assert expected["loss"].dtype == np.float64 and expected["loss"].shape == () and 0.5 < expected["loss"] < 4


def test_a_loss_that_is_not_the_models_is_found(copy: Path) -> None:
    """A thousandth of a nat more, with the manifest brought up to date."""
    file = copy / "dots1" / "expected.safetensors"
    expected = load_file(file)
    save_file(expected | {"loss": np.array(expected["loss"] + 1e-3)}, file)
    manifest = build.read_manifest(copy)
    manifest["sha256"]["dots1/expected.safetensors"] = sha256(file.read_bytes()).hexdigest()
    (copy / build.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(build.GoldenError, match="golden loss .* differs from the oracle's"):
        build.verify(copy, rerun=False)


def test_correction_biases_of_the_golden_models_matter() -> None:
    """Float32 on disk, not zero, and without them other experts would be chosen."""
    oracle = Case("dots1", golden_root() / "dots1" / "checkpoint").oracle
    x_LSD = oracle.forward(load_file(golden_root() / "dots1" / "expected.safetensors")["input_ids_BS"][0]).x_LSD
    for layer, x_SD in enumerate(x_LSD):
        logits_SE, ids_SK, _ = oracle.route(layer, x_SD)
        without = routing.select(routing.ranking(logits_SE, oracle.config.routing, None), oracle.config.routing)
        assert (np.sort(ids_SK) != np.sort(without)).any(-1).mean() > 0.1
