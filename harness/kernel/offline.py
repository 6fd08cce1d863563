"""Judges outputs that somebody computed elsewhere from exported cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors needs
import numpy as np
from safetensors import SafetensorError, safe_open

from moe_harness.implementations.interface import KernelCall, KernelResult
from moe_harness.kernel.cases import Case
from moe_harness.kernel.check import Line, expect, judge
from moe_harness.kernel.export import INPUTS, OUTPUTS, read_manifest, shape_of
from moe_harness.kernel.weights import DrawnWeights
from moe_harness.records.status import Status

Read = Callable[[str], np.ndarray]
NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def judge_outputs(directory: Path) -> list[Line]:
    """A line for every exported case, and one for every tensor that nobody asked for.

    Raises ValueError and FileNotFoundError where the directory is no export, its inputs were changed, or there are no readable outputs.
    """
    manifest = read_manifest(directory)
    if not (directory / OUTPUTS).is_file():
        raise FileNotFoundError(f"{directory / OUTPUTS}: no such file; README.txt beside it says what it must hold")
    try:
        with safe_open(directory / INPUTS, framework="numpy") as inputs, safe_open(directory / OUTPUTS, framework="numpy") as outputs:
            return [*_lines(manifest, inputs, outputs), *_strangers(manifest, outputs)]
    except SafetensorError as error:
        raise ValueError(f"{directory}: {error}") from error


def _lines(manifest: dict[str, Any], inputs: Any, outputs: Any) -> Iterator[Line]:
    weights: dict[str, DrawnWeights] = {}
    for _, group in groupby(manifest["calls"], key=lambda call: call["case"]):
        calls = list(group)
        shape = calls[0]["shape"]
        if shape not in weights:
            weights[shape] = DrawnWeights(
                shape_of(manifest, shape), inputs.get_tensor(f"{shape}/w_gate_up"), inputs.get_tensor(f"{shape}/w_down")
            )
        yield _line(calls, weights[shape], inputs, outputs, manifest["dtype"])


def _line(calls: list[dict[str, Any]], weights: DrawnWeights, inputs: Any, outputs: Any, dtype: str) -> Line:
    case = _case(calls, inputs)
    missing = [call["name"] for call in calls if call["name"] not in outputs.keys()]  # noqa: SIM118  not a mapping
    if missing:
        return Line(case.name, case.group, case.about, Status.FAIL, f"no output named {', '.join(missing)}")
    results = [_result(call["name"], outputs, dtype) for call in calls]
    return judge(case, expect(case, weights, dtype), results)


def _case(calls: list[dict[str, Any]], inputs: Any) -> Case:
    first = calls[0]
    spoilt = np.isin(np.arange(first["tokens"]), first["nan"]) if first["nan"] else None
    asked = tuple(_call(call["name"], inputs.get_tensor) for call in calls)
    return Case(first["case"], first["group"], first["about"], first["shape"], asked, spoilt_T=spoilt)


def _call(name: str, read: Read) -> KernelCall:
    x_TD, ids_TK, weights_TK = (read(f"{name}/{part}") for part in ("x", "topk_ids", "topk_weights"))
    return KernelCall(x_TD.astype(np.float32), ids_TK, weights_TK)


def _result(name: str, outputs: Any, dtype: str) -> KernelResult:
    stored = outputs.get_slice(name).get_dtype()
    found = NAMES.get(stored, stored)
    if found not in (dtype, "float32"):
        return KernelResult(np.zeros(outputs.get_slice(name).get_shape(), np.float32), (f"dtype {found}, expected {dtype} or float32",))
    return KernelResult(outputs.get_tensor(name).astype(np.float32))


def _strangers(manifest: dict[str, Any], outputs: Any) -> Iterator[Line]:
    known = {call["name"] for call in manifest["calls"]}
    for name in sorted(set(outputs.keys()) - known):
        yield Line(name, "strangers", "a tensor in the outputs", Status.FAIL, "no call has this name")
