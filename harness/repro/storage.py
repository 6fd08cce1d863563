"""Capsules on disk: one safetensors file whose metadata holds the JSON. Nothing in it is code, and nothing in it is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors needs
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from moe_harness.implementations.interface import ModelConfig, RoutingSpec
from moe_harness.judge.exhibit import KINDS, Exhibit
from moe_harness.judge.limit import Limit
from moe_harness.judge.metric import Metric
from moe_harness.records.plain import json_safe
from moe_harness.records.whole import replace
from moe_harness.repro.capsule import Capsule
from moe_harness.repro.fit import LIMIT, fitted
from moe_harness.repro.valid import complaint

SCHEMA, KEY = 1, "capsule"
WEIGHT, ARRAY = "weight/", "array/"
LARGEST_JSON = 1_000_000  # characters


class CapsuleError(Exception):
    """A file that is no capsule, or not a whole one. `str()` names the file and says what is wrong."""


def write(capsule: Capsule, directory: Path) -> Path:
    """Writes the capsule, cut to size, into `directory`, which is made."""
    exhibit = fitted(capsule.exhibit)
    arrays = {WEIGHT + name: array for name, array in exhibit.tensors.items()} | {ARRAY + n: a for n, a in exhibit.arrays.items()}
    text = json.dumps(json_safe(_header(capsule, exhibit)), allow_nan=False)
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata={KEY: text})
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / capsule.file_name()
    replace(path, data)
    return path


def _header(capsule: Capsule, exhibit: Exhibit) -> dict[str, Any]:
    parts = ("identity", "reproduce", "checkpoint", "parameters")
    own = ("kind", "dtype", "facts", "experts")
    return {
        "schema": SCHEMA,
        "metrics": [metric.to_record() for metric in capsule.metrics],
        "limits": {name: [limit.noise, limit.bound] for name, limit in exhibit.limits.items()},
        "config": None if exhibit.config is None else asdict(exhibit.config),
        **{name: getattr(capsule, name) for name in parts},
        **{name: getattr(exhibit, name) for name in own},
    }


def read(path: Path) -> Capsule:
    """Raises CapsuleError for anything but a whole capsule of this schema; FileNotFoundError where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > LIMIT:
        raise CapsuleError(f"{path}: {path.stat().st_size} bytes; a capsule has at most {LIMIT}")
    try:
        header, arrays = _raw(path)
        capsule = _capsule(header, arrays)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OSError, RecursionError) as error:
        raise CapsuleError(f"{path}: not a capsule: {type(error).__name__}: {error}") from error
    if wrong := complaint(capsule.exhibit):
        raise CapsuleError(f"{path}: damaged: {wrong}")
    return capsule


def _raw(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get(KEY)
        if text is None or len(text) > LARGEST_JSON:
            raise ValueError("no capsule's JSON in its metadata")
        header = json.loads(text)
        if not isinstance(header, dict) or header.get("schema") != SCHEMA:
            found = header.get("schema") if isinstance(header, dict) else header
            raise ValueError(f"schema {found!r}; this version reads {SCHEMA}")
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping


def _capsule(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Capsule:
    identity = {str(name): str(value) for name, value in header["identity"].items()}
    missing = {"check", "backend", "case", "dtype"} - identity.keys()
    if missing:
        raise ValueError(f"its identity lacks {', '.join(sorted(missing))}")
    metrics = tuple(Metric(str(m["name"]), float(m["value"]), _number(m["bound"]), _number(m["noise"])) for m in header["metrics"])
    checkpoint = {str(name): str(value) for name, value in header["checkpoint"].items()}
    return Capsule(identity, metrics, str(header["reproduce"]), _exhibit(header, arrays), checkpoint, dict(header["parameters"]))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _exhibit(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Exhibit:
    if header["kind"] not in KINDS:
        raise ValueError(f"kind {header['kind']!r}; known: {', '.join(KINDS)}")
    experts = header["experts"]
    return Exhibit(
        header["kind"],
        None if header["config"] is None else _config(header["config"]),
        str(header["dtype"]),
        dict(header["facts"]),
        {str(name): Limit(float(noise), float(bound)) for name, (noise, bound) in header["limits"].items()},
        {name.removeprefix(WEIGHT): array for name, array in arrays.items() if name.startswith(WEIGHT)},
        {name.removeprefix(ARRAY): array for name, array in arrays.items() if name.startswith(ARRAY)},
        None if experts is None else tuple(int(e) for e in experts),
    )


def _config(raw: Mapping[str, Any]) -> ModelConfig:
    """Lists become the tuples that they were. Raises TypeError for an unknown field."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    known = {f.name for f in fields(RoutingSpec)}
    routing = dict(values.pop("routing"))
    if unknown := routing.keys() - known:
        raise TypeError(f"unknown routing field {', '.join(sorted(unknown))}")
    return ModelConfig(**values, routing=RoutingSpec(**routing))
