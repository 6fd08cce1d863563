"""Writing directories: shards within their bound, the same bits back, all or nothing."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.checkpoint.writer import convert, copy_beside, new_directory, write_checkpoint, write_tensors
from moe_harness.implementations.families.weights import identity_layout, scatter
from moe_harness.implementations.interface import CheckpointError
from moe_harness.implementations.tests.test_checkpoint_good import (
    INDEX,
    MIXTRAL_CURRENT,
    QWEN_CURRENT,
    SINGLE,
    assert_same_bits,
    expected_canonical,
    random_tensors,
    write_directory,
)

TIED = {**QWEN_CURRENT, "tie_word_embeddings": True, "dtype": "bfloat16"}


def as_it_is(family, config, stored_head):
    return identity_layout(config, stored_head)


@pytest.mark.parametrize("shard_bytes", [1, 1500, 1 << 30])
@pytest.mark.parametrize("raw", [MIXTRAL_CURRENT, TIED], ids=["mixtral", "qwen3_moe tied bf16"])
def test_what_was_written_is_read_back(tmp_path: Path, raw, shard_bytes: int):
    tensors = random_tensors(raw)
    write_checkpoint(tmp_path / "m", raw, tensors, shard_bytes)
    with Checkpoint(tmp_path / "m") as checkpoint:
        assert_same_bits(checkpoint, expected_canonical(raw, tensors))
        assert checkpoint.raw_config == raw


def test_shards_keep_their_bound_and_the_index_its_promises(tmp_path: Path):
    tensors = random_tensors(MIXTRAL_CURRENT)  # the embedding, 960 bytes, is the largest
    write_checkpoint(tmp_path / "m", MIXTRAL_CURRENT, tensors, 1500)
    index = json.loads((tmp_path / "m" / INDEX).read_text())
    homes = index["weight_map"]
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors.values()) and homes.keys() == tensors.keys()
    files = sorted(set(homes.values()))
    assert files == [f"model-{k + 1:05d}-of-{len(files):05d}.safetensors" for k in range(len(files))] and len(files) > 5
    held = [sum(tensors[name].nbytes for name, home in homes.items() if home == file) for file in files]
    assert max(held) <= 1500 and all(a + b > 1500 for a, b in zip(held, held[1:]))  # no file that the next one's tensors had room in
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted([*files, INDEX, "config.json"])


def test_a_tensor_above_the_bound_has_a_shard_to_itself(tmp_path: Path):
    arrays = {"small": np.ones(2, np.float32), "large": np.ones(99, np.float32), "last": np.ones(3, np.float32)}
    write_tensors(tmp_path, {name: array.nbytes for name, array in arrays.items()}, arrays.__getitem__, 100)
    homes = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    assert [homes[name][:11] for name in arrays] == ["model-00001", "model-00002", "model-00003"]


@pytest.mark.parametrize(
    "error", [CheckpointError("x", "gone"), MemoryError(), KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize("existing", [False, True], ids=["new dst", "empty dst"])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, error: BaseException, existing: bool):
    source = Checkpoint(write_directory(tmp_path / "src", MIXTRAL_CURRENT, random_tensors(MIXTRAL_CURRENT)))
    sizes = {name: 600 for name in random_tensors(MIXTRAL_CURRENT)}
    read: list[str] = []

    def fails_late(name: str) -> np.ndarray:
        read.append(name)
        if len(read) > len(sizes) // 2:
            raise error
        return source.source(name)

    if existing:
        (tmp_path / "dst").mkdir()
    with source, pytest.raises(type(error)):
        convert(source, tmp_path / "dst", (sizes, fails_late))
    assert len(read) == len(sizes) // 2 + 1
    assert not (tmp_path / "dst").exists() or (existing and not any((tmp_path / "dst").iterdir()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "src"][not existing :]


def test_a_directory_in_use_is_not_touched(tmp_path: Path):
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "precious").write_text("x")
    (tmp_path / "file").write_text("y")
    for name in ("dst", "file"):
        with pytest.raises(CheckpointError, match="already exists; give a new or empty directory"):
            write_checkpoint(tmp_path / name, MIXTRAL_CURRENT, {})
    assert (tmp_path / "dst" / "precious").read_text() == "x" and (tmp_path / "file").read_text() == "y"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["new", "nested", "empty", "link to empty"])
def test_where_a_directory_may_be_written(tmp_path: Path, kind: str):
    dst = tmp_path / ("a/b/c" if kind == "nested" else "dst")
    if kind == "empty":
        dst.mkdir()
    if kind == "link to empty":
        (tmp_path / "real").mkdir()
        dst.symlink_to("real")
    with new_directory(dst) as scratch:
        (scratch / "x").write_text("x")
    assert (dst / "x").read_text() == "x" and dst.stat().st_mode & 0o777 == 0o755
    assert not [path for path in dst.parent.iterdir() if path.name.startswith(".")]


def test_what_lies_beside_is_copied_without_weights_and_indices(tmp_path: Path):
    kept = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "merges.txt", "README.md"]
    left = [SINGLE, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "original.pkl"]
    (tmp_path / "src").mkdir()
    (tmp_path / "dst").mkdir()
    for name in kept + left:
        (tmp_path / "src" / name).write_bytes(name.encode())
    copy_beside(tmp_path / "src", tmp_path / "dst")
    assert {path.name: path.read_text() for path in (tmp_path / "dst").iterdir()} == {name: name for name in kept}


@pytest.mark.parametrize("stored", [False, True], ids=["no stored head", "stored head"])
def test_a_conversion_and_back_is_bit_exact(tmp_path: Path, stored: bool):
    tensors = random_tensors(TIED)
    if stored:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    hf = write_directory(tmp_path / "hf", TIED, tensors, 3)
    with Checkpoint(hf) as source:
        sizes = {name: source.tensor(name).nbytes for name in source.names()}
        convert(source, tmp_path / "own", (sizes, source.tensor))
    with Checkpoint(tmp_path / "own", as_it_is) as own:
        assert_same_bits(own, expected_canonical(TIED, tensors))
        layout = own.family.layout(own.config, own.stored_head)
        back = dict(scatter(layout, {name: own.tensor(name) for name in own.names()}))
        convert(own, tmp_path / "back", ({name: array.nbytes for name, array in back.items()}, back.__getitem__))
    assert (tmp_path / "back" / "config.json").read_bytes() == (hf / "config.json").read_bytes()
    with Checkpoint(tmp_path / "back") as again:
        assert again.stored_head is stored
        assert {name: again.source(name).tobytes() for name in tensors} == {name: array.tobytes() for name, array in tensors.items()}


def test_a_tied_head_is_checked_in_every_layout(tmp_path: Path):
    raw = {**TIED, "dtype": "float32"}
    canonical = expected_canonical(raw, random_tensors(raw))
    write_checkpoint(tmp_path / "own", raw, {**canonical, "lm_head.weight": canonical["embed.weight"][::-1]})
    with pytest.raises(CheckpointError, match="the stored head differs") as caught:
        Checkpoint(tmp_path / "own", as_it_is)
    assert caught.value.tensor == "lm_head.weight"


def test_writing_is_streamed(tmp_path: Path):
    """One shard's worth of tensors is in memory at a time, not the model."""
    sizes = {f"t{k}": 1 << 18 for k in range(64)}
    tracemalloc.start()
    try:
        write_tensors(tmp_path, sizes, lambda name: np.full(1 << 16, 3, np.float32), shard_bytes=1 << 19)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A shard's two arrays, and their bytes as safetensors takes them; the model is 32 shards.
    assert peak < 3 * (1 << 19)
