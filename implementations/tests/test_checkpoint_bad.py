"""A corpus of bad checkpoint directories. Each must be refused on opening, by an error that names the file and, where one is to blame, the
tensor; nothing is handed out of a directory that is half good."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.interface import CheckpointError
from moe_harness.implementations.tests.test_checkpoint_good import (
    INDEX,
    MIXTRAL_CURRENT,
    MIXTRAL_LEGACY,
    SINGLE,
    Raw,
    Tensors,
    random_tensors,
    write_directory,
)

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
HEAD, EMBEDDING, EXPERT = "lm_head.weight", "model.embed_tokens.weight", "model.layers.1.block_sparse_moe.experts.3.w2.weight"
ROUTER = "model.layers.2.block_sparse_moe.gate.weight"


@dataclass(frozen=True)
class Bad:
    """A good directory (`raw`, `shards`) and what breaks it; then the file and tensor to be named, and a fragment of the message.
    `file` "" stands for the directory itself."""

    break_: Callable[[Path], object]
    file: str
    tensor: str | None
    message: str
    raw: Raw
    shards: int = 1


def edit(path: Path, change: Callable[[Tensors], object]) -> None:
    """Rewrites one safetensors file with other tensors."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def append(path: Path, tail: bytes) -> None:
    path.write_bytes(path.read_bytes() + tail)


def raw_safetensors(path: Path, dtype: str, shape: list[int], itemsize: int) -> None:
    """Adds the head in a dtype that numpy cannot hold, by writing the format: 8 bytes of header size, JSON header, data."""
    tensors = {name: array for name, array in load_file(path).items() if name != HEAD}
    header: dict[str, Any] = {}
    blobs = [(name, "F32", list(array.shape), array.tobytes()) for name, array in tensors.items()]
    blobs.append((HEAD, dtype, shape, bytes(int(np.prod(shape)) * itemsize)))
    offset = 0
    for name, kind, size, data in blobs:
        header[name] = {"dtype": kind, "shape": size, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for *_, data in blobs))


def edit_index(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((path / INDEX).read_text())
    change(index["weight_map"])
    (path / INDEX).write_text(json.dumps(index))


def move(path: Path, name: str, *, copy: bool) -> None:
    """Puts a tensor of the second shard into the first too (`copy`) or instead, and leaves the index as it is."""
    array = load_file(path / SECOND)[name]
    edit(path / FIRST, lambda tensors: tensors.update({name: array}))
    if not copy:
        edit(path / SECOND, lambda tensors: tensors.pop(name))


def lose(path: Path, name: str) -> None:
    """Takes a tensor of the second shard out of the file and out of the index."""
    edit_index(path, lambda weight_map: weight_map.pop(name))
    edit(path / SECOND, lambda tensors: tensors.pop(name))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def only_a_pickle(path: Path, name: str) -> None:
    (path / SINGLE).unlink()
    (path / name).write_bytes(pickle.dumps({"weight": [1.0]}))


def shard(change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    return lambda path: edit(path / SINGLE, change)


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes(content.encode() if isinstance(content, str) else content)


DUPLICATED_INDEX = f'{{"weight_map": {{"{EXPERT}": "{FIRST}", "{EXPERT}": "{SECOND}"}}}}'
M = MIXTRAL_LEGACY
TIED = {**MIXTRAL_CURRENT, "tie_word_embeddings": True}


def sharded(break_: Callable[[Path], object], file: str, tensor: str | None, message: str) -> Bad:
    return Bad(break_, file, tensor, message, M, shards=2)


def pointing_to(target: object) -> Bad:
    """An index that sends one tensor elsewhere."""
    return sharded(lambda p: edit_index(p, lambda m: m.update({HEAD: target})), INDEX, HEAD, f"points to {target!r}")


OUTSIDE = (
    "../m/model-00001-of-00002.safetensors",
    "/etc/model.safetensors",
    "sub/model.safetensors",
    "pytorch_model.bin",
    "..",
    "",
    3,
    None,
)
FILES: dict[str, Bad] = {
    "not a directory": Bad(lambda p: (p.rename(p.with_name("x")), p.write_text("x")), "", None, "not a directory", M),
    "no config": Bad(lambda p: (p / "config.json").unlink(), "config.json", None, "no such file", M),
    "no weights": Bad(lambda p: (p / SINGLE).unlink(), "", None, f"neither {SINGLE} nor {INDEX}", M),
    "pickle .bin": Bad(lambda p: only_a_pickle(p, "pytorch_model.bin"), "pytorch_model.bin", None, "pickle", M),
    "pickle .pt": Bad(lambda p: only_a_pickle(p, "model.pt"), "model.pt", None, "pickle", M),
    "pickle .pth": Bad(lambda p: only_a_pickle(p, "consolidated.00.pth"), "consolidated.00.pth", None, "pickle", M),
    "pickle under another name": Bad(text(SINGLE, pickle.dumps(list(range(99)))), SINGLE, None, "not a whole safetensors file", M),
    "single file and index": sharded(lambda p: save_file({}, p / SINGLE), INDEX, None, f"beside {SINGLE}"),
    "truncated": Bad(lambda p: cut(p / SINGLE, -1), SINGLE, None, "not a whole safetensors file", M),
    "truncated shard": sharded(lambda p: cut(p / SECOND, 1000), SECOND, None, "not a whole safetensors file"),
    "trailing bytes": Bad(lambda p: append(p / SINGLE, b"x"), SINGLE, None, "not a whole safetensors file", M),
    "empty file": Bad(text(SINGLE, b""), SINGLE, None, "not a whole safetensors file", M),
    "header too large": Bad(text(SINGLE, b"\xff" * 64), SINGLE, None, "not a whole safetensors file", M),
    "folder as a shard": sharded(lambda p: replace_by_folder(p / SECOND), SECOND, None, "no such file"),
    "link to nothing": sharded(lambda p: replace_by_dangling_link(p / SECOND), SECOND, None, "no such file"),
    "missing shard": sharded(lambda p: (p / SECOND).unlink(), SECOND, None, "no such file"),
    "index names a missing shard": sharded(
        lambda p: edit_index(p, lambda m: m.update({HEAD: "model-00003-of-00002.safetensors"})),
        "model-00003-of-00002.safetensors", None, "no such file",
    ),
    "index is not JSON": sharded(text(INDEX, "{"), INDEX, None, "cannot be read as JSON"),
    "index is a list": sharded(text(INDEX, "[]"), INDEX, None, "expected a JSON object, got list"),
    "index without weight_map": sharded(text(INDEX, "{}"), INDEX, None, "no weight_map"),
    "index with an empty weight_map": sharded(text(INDEX, '{"weight_map": {}}'), INDEX, None, "no weight_map"),
    "index with a list as weight_map": sharded(text(INDEX, '{"weight_map": ["a"]}'), INDEX, None, "no weight_map"),
    "index names a tensor twice": sharded(text(INDEX, DUPLICATED_INDEX), INDEX, None, f"{EXPERT!r} stands there twice"),
    "stored twice": sharded(lambda p: move(p, EXPERT, copy=True), FIRST, EXPERT, f"stored twice, also in {SECOND}"),
    "stored elsewhere": sharded(lambda p: move(p, EXPERT, copy=False), SECOND, EXPERT, "not in this file"),
    "extra tensor in a shard": sharded(
        lambda p: edit(p / SECOND, lambda t: t.update({"extra": np.ones(3)})), SECOND, "extra", f"{INDEX} does not list it"
    ),
    "missing from its shard": sharded(lambda p: edit(p / SECOND, lambda t: t.pop(EXPERT)), SECOND, EXPERT, "not in this file"),
    **{f"index points to {target!r}": pointing_to(target) for target in OUTSIDE},
}  # fmt: skip

TENSORS: dict[str, Bad] = {
    "missing": Bad(shard(lambda t: t.pop(EXPERT)), SINGLE, EXPERT, "missing (1 missing in all)", M),
    "missing, sharded": sharded(lambda p: lose(p, ROUTER), INDEX, ROUTER, "missing (1 missing in all)"),
    "head missing": Bad(shard(lambda t: t.pop(HEAD)), SINGLE, HEAD, "missing", M),
    "all experts of a layer missing": Bad(
        shard(lambda t: [t.pop(n) for n in list(t) if ".1.block_sparse_moe.experts" in n]),
        SINGLE, "model.layers.1.block_sparse_moe.experts.0.w1.weight", "15 missing in all", M,
    ),
    "unexpected": Bad(shard(lambda t: t.update({"bias": np.ones(3, np.float32)})), SINGLE, "bias", "1 unexpected in all", M),
    "one expert too many": Bad(
        shard(lambda t: t.update({EXPERT.replace("s.3", "s.5"): t[EXPERT].copy()})),
        SINGLE, EXPERT.replace("s.3", "s.5"), "not part of MixtralForCausalLM", M,
    ),
    "experts stacked": Bad(
        shard(lambda t: t.update({"model.layers.0.mlp.experts.gate_up_proj": np.ones((5, 20, 12), np.float32)})),
        SINGLE, "model.layers.0.mlp.experts.gate_up_proj", "not part of", M,
    ),
    "no tensor at all": Bad(shard(lambda t: t.clear()), SINGLE, HEAD, "missing", M),
    "misshapen": Bad(
        shard(lambda t: t.update({ROUTER: np.ones((4, 12), np.float32)})), SINGLE, ROUTER, "shape (4, 12), config.json asks for (5, 12)", M
    ),
    "transposed": Bad(
        shard(lambda t: t.update({EXPERT: np.ascontiguousarray(t[EXPERT].T)})), SINGLE, EXPERT, "shape (10, 12), config.json asks for", M
    ),
    "flattened": Bad(shard(lambda t: t.update({EXPERT: t[EXPERT].ravel()})), SINGLE, EXPERT, "shape (120,)", M),
    "another dtype": Bad(
        shard(lambda t: t.update({ROUTER: t[ROUTER].astype(ml_dtypes.bfloat16)})), SINGLE, ROUTER, "dtype bfloat16, config.json says", M
    ),
    "float64": Bad(shard(lambda t: t.update({ROUTER: t[ROUTER].astype(np.float64)})), SINGLE, ROUTER, "dtype F64", M),
    "integers": Bad(shard(lambda t: t.update({ROUTER: np.zeros((5, 12), np.int8)})), SINGLE, ROUTER, "dtype I8", M),
    "fp8": Bad(lambda p: raw_safetensors(p / SINGLE, "F8_E4M3", [20, 12], 1), SINGLE, HEAD, "dtype F8_E4M3", M),
    "tied, but the stored head differs": Bad(
        shard(lambda t: t.update({HEAD: t[EMBEDDING] + 1})), SINGLE, HEAD, "the stored head differs from the embedding", TIED
    ),
    "tied, but the stored head is misshapen": Bad(
        shard(lambda t: t.update({HEAD: t[EMBEDDING][:-1].copy()})), SINGLE, HEAD, "shape (19, 12)", TIED
    ),
}  # fmt: skip


def assert_refused(path: Path, bad: Bad) -> None:
    handed_out: list[str] = []
    with pytest.raises(CheckpointError) as caught, Checkpoint(path) as checkpoint:
        handed_out += checkpoint.names()
    error = caught.value
    assert handed_out == []
    assert Path(error.path) == (path / bad.file if bad.file else path)
    assert error.tensor == bad.tensor
    assert bad.message in str(error) and str(error).startswith(f"{error.path}: ")
    assert bad.tensor is None or repr(bad.tensor) in str(error)


def check(bad: Bad, folder: Path) -> None:
    path = write_directory(folder / "m", bad.raw, random_tensors(bad.raw), bad.shards)
    with Checkpoint(path) as checkpoint:
        assert checkpoint.names()  # good before it is broken
    bad.break_(path)
    assert_refused(path, bad)


@pytest.mark.parametrize("bad", [*FILES.values(), *TENSORS.values()], ids=[*FILES, *TENSORS])
def test_a_bad_directory_is_refused(tmp_path: Path, bad: Bad):
    check(bad, tmp_path)
