"""HF checkpoint directories, read strictly and one tensor at a time: config.json, model.safetensors or an index with shards.

Opening validates everything that can be told without reading weights (files, index, names, shapes, dtypes), and a stored head that must
equal the embedding; a directory that opens has exactly the tensors its config asks for. Pickles are refused. Writing is
`writer.py`.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Tuple

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors needs
import numpy as np
from safetensors import SafetensorError, safe_open

from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.safetensors import views
from moe_harness.implementations.families.config import ConfigError
from moe_harness.implementations.families.family import Family
from moe_harness.implementations.families.weights import Placement, assemble, by_target, canonical_shapes, stored_dtypes
from moe_harness.implementations.interface import CheckpointError, ModelConfig

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
HEAD = "lm_head.weight"  # the same on disk and among the canonical names
SAFETENSORS_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
Tensors = Dict[str, Tuple[Path, Any, Tuple[Tuple[int, ...], str]]]  # name on disk -> (file, open handle, (shape, dtype))
LayoutOf = Callable[[Family, ModelConfig, bool], List[Placement]]


def hf_layout(family: Family, config: ModelConfig, stored_head: bool) -> List[Placement]:
    return family.layout(config, stored_head)


class Checkpoint:
    """An open, validated directory. `raw_config`: config.json as it stands. Use as a context manager, or `close()`.

    Raises CheckpointError on opening: unreadable or contradictory config, unknown architecture, missing file, truncated shard, index entry
    that leaves the directory, missing, unexpected or misshapen tensor, wrong dtype, pickle.
    """

    def __init__(self, path: str | Path, layout_of: LayoutOf = hf_layout):
        self.path = Path(path)
        self.raw_config = read_config(self.path)
        self.family, self.config = parse_config(self.raw_config, self.path / CONFIG)
        with ExitStack() as stack:
            self._handles = _open_shards(self.path, stack)
            self._views: Dict[Path, Mapping[str, np.ndarray]] = {}
            self.stored_head = HEAD in self._handles
            self.layout = layout_of(self.family, self.config, self.stored_head or not self.config.tie_word_embeddings)
            self._by_target = by_target(self.layout)
            self._shapes = canonical_shapes(self.config, self.stored_head)
            self._validate()
            self._stack = stack.pop_all()

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def names(self) -> List[str]:
        """Canonical tensor names, in model order."""
        return list(self._by_target)

    def placements(self, name: str) -> List[Placement]:
        return self._by_target[name]

    def shape(self, name: str) -> Tuple[int, ...]:
        return self._shapes[name]

    def bytes(self, name: str) -> int:
        """The size of a canonical tensor as stored."""
        _, dtype = self._handles[self._by_target[name][0].source][2]
        return int(np.prod(self._shapes[name], dtype=np.int64)) * (4 if dtype == "float32" else 2)

    def source(self, name: str) -> np.ndarray:
        """A tensor by its name on disk, in its stored dtype (bfloat16 as ml_dtypes.bfloat16)."""
        path, handle, _ = self._handles[name]
        try:
            return handle.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(path, str(error), name) from error

    def mapped(self, name: str) -> np.ndarray:
        """The same as a read-only view of the mapped file, which must stay as it is meanwhile."""
        path = self._handles[name][0]
        if path not in self._views:
            self._views[path] = views(path)
        return self._views[path][name]

    def tensor(self, name: str) -> np.ndarray:
        """A canonical tensor, assembled from its sources, in its stored dtype."""
        return assemble(self._by_target[name], self._shapes[name], self.source)

    def head_name(self) -> str:
        """The canonical tensor that makes logits: the stored head, or the embedding when tied."""
        return "embed.weight" if self.config.tie_word_embeddings else HEAD

    def _validate(self) -> None:
        expected = {p.source: p for p in self.layout}
        missing, unexpected = sorted(set(expected) - set(self._handles)), sorted(set(self._handles) - set(expected))
        if missing:
            listing = self.path / (INDEX if (self.path / INDEX).exists() else SINGLE)
            raise CheckpointError(listing, f"missing ({len(missing)} missing in all)", missing[0])
        if unexpected:
            where = self._handles[unexpected[0]][0]
            raise CheckpointError(where, f"not part of {self.config.architecture} ({len(unexpected)} unexpected in all)", unexpected[0])
        for name, (path, _, (shape, dtype)) in self._handles.items():
            if shape != expected[name].shape:
                raise CheckpointError(path, f"shape {shape}, config.json asks for {expected[name].shape}", name)
            wanted = stored_dtypes(expected[name].name, self.config)
            if dtype not in wanted:
                raise CheckpointError(path, f"dtype {dtype}, config.json says {' or '.join(wanted)}", name)
        self._validate_tied_head()

    def _validate_tied_head(self) -> None:
        if not (self.config.tie_word_embeddings and self.stored_head):
            return
        if self.tensor(HEAD).tobytes() != self.tensor("embed.weight").tobytes():
            file = self._handles[HEAD][0]
            raise CheckpointError(file, "tie_word_embeddings is true but the stored head differs from the embedding", HEAD)


def read_config(path: Path, name: str = CONFIG) -> Dict[str, Any]:
    """The directory's config.json as a dict. Raises CheckpointError: no such file, bad JSON, NaN or Infinity, a key given twice."""
    if not path.is_dir():
        raise CheckpointError(path, "not a directory")
    return read_json(path / name)


def parse_config(raw: Mapping[str, Any], path: str | Path) -> Tuple[Family, ModelConfig]:
    """(family, ModelConfig) of a config.json; `path` is only named in the CheckpointError."""
    try:
        family = families.detect(raw)
        return family, family.parse(raw)
    except ConfigError as error:
        raise CheckpointError(path, str(error)) from error


def read_json(path: Path) -> Dict[str, Any]:
    """A JSON object, strictly. Raises CheckpointError."""
    try:
        value = json.loads(path.read_text("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except FileNotFoundError as error:
        raise CheckpointError(path, "no such file") from error
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(path, f"cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(path, f"expected a JSON object, got {type(value).__name__}")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """An object of unique keys; Python alone would silently keep the last."""
    seen: Dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"{key!r} stands there twice")
        seen[key] = value
    return seen


def _open_shards(path: Path, stack: ExitStack) -> Tensors:
    shards = _shards(path)
    handles = {file: _open_shard(file, stack) for file in shards}
    present = {file: set(handle.keys()) for file, handle in handles.items()}
    _compare_with_index(shards, present)
    return {name: (file, handles[file], _describe(file, handles[file], name)) for file in shards for name in sorted(present[file])}


def _compare_with_index(shards: Mapping[Path, set[str] | None], present: Mapping[Path, set[str]]) -> None:
    """Each shard holds the tensors that the index puts there, and no others."""
    listed = {file: names for file, names in shards.items() if names is not None}
    homes = {name: file for file, names in listed.items() for name in names}
    for file, names in listed.items():
        for name in sorted(names - present[file]):
            raise CheckpointError(file, f"not in this file, where {INDEX} puts it", name)
    for file, names in listed.items():
        for name in sorted(present[file] - names):
            raise CheckpointError(file, f"stored twice, also in {homes[name].name}" if name in homes else f"{INDEX} does not list it", name)


def _shards(path: Path) -> Dict[Path, set[str] | None]:
    """Shard files with the names the index gives them (None: no index)."""
    if (path / INDEX).exists():
        shards = _read_index(path / INDEX)
        if (path / SINGLE).exists() and path / SINGLE not in shards:
            raise CheckpointError(path / INDEX, f"lies beside {SINGLE} and does not name it; which of them holds the weights is unclear")
        return shards
    if (path / SINGLE).exists():
        return {path / SINGLE: None}
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for p in path.glob(pattern))
    if pickles:
        raise CheckpointError(path / pickles[0], "a pickle can run code when it is read; only safetensors are accepted")
    raise CheckpointError(path, f"neither {SINGLE} nor {INDEX}")


def _read_index(index: Path) -> Dict[Path, set[str] | None]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(index, "no weight_map")
    files: Dict[Path, set[str] | None] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(index, f"points to {file!r}; a .safetensors file in the same directory is expected", name)
        names = files.setdefault(index.parent / file, set())
        assert names is not None
        names.add(name)
    return files


def _open_shard(file: Path, stack: ExitStack) -> Any:
    if not file.is_file():  # a symlink counts as what it points to: hub caches consist of them
        raise CheckpointError(file, "no such file")
    try:
        return stack.enter_context(safe_open(file, framework="np"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(file, f"not a whole safetensors file: {error}") from error


def _describe(file: Path, handle: Any, name: str) -> Tuple[Tuple[int, ...], str]:
    view = handle.get_slice(name)
    dtype = SAFETENSORS_NAMES.get(view.get_dtype())
    if dtype is None:
        raise CheckpointError(file, f"dtype {view.get_dtype()}; float32, bfloat16 and float16 are supported", name)
    return tuple(view.get_shape()), dtype
