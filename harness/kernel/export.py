"""The small cases as files, for kernels in any language, and the judgement of the outputs that come back.

`inputs.safetensors` holds the inputs, `manifest.json` says what belongs to which call, with the inputs' sha256. What is expected is not
written: the judge computes it from the inputs. The answer is `outputs.safetensors`, one tensor a call, of the call's name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from moe_harness.cases.tensors import numpy_dtype
from moe_harness.implementations.checkpoint.writer import new_directory, write_json
from moe_harness.kernel.cases import Case
from moe_harness.kernel.run import Suite
from moe_harness.kernel.weights import Shape

FORMAT = 1
INPUTS, MANIFEST, OUTPUTS, README = "inputs.safetensors", "manifest.json", "outputs.safetensors", "README.txt"
LARGEST = 30_000_000  # bytes in all
CALL = ("x", "topk_ids", "topk_weights", "router_logits")

TEXT = """Cases for a fused MoE kernel. Written by moe-harness {version}: like {like}, {dtype}, {count} calls.

{inputs} holds, for every call of {manifest}'s "calls":
  <call>/x              (T, D)  {dtype}     hidden states; T may be 0, and the call "nan-token" has a row of NaN
  <call>/topk_ids       (T, K)  int64       the experts of every token
  <call>/topk_weights   (T, K)  float32     their weights, used as they are
  <call>/router_logits  (T, E)  {dtype}     where there is such a tensor: the logits that give those ids and weights
and for every shape that a call names:
  <shape>/w_gate_up     (E, 2F, D)  {dtype}  gate in the first F rows, up in the last
  <shape>/w_down        (E, D, F)   {dtype}

Compute, for every token:  y = sum over k of topk_weights[k] * w_down[e] @ (silu(w_gate[e] @ x) * (w_up[e] @ x)),  e = topk_ids[k].
Write {outputs} beside this file: one tensor (T, D) for every call, named as the call, in {dtype} or float32. Calls in "calls" are in
order; those named name#1, name#2, ... should be made one after the other in one process. The row of NaN is not judged.
Then:  moe-harness kernel --judge DIRECTORY
"""


def export(suite: Suite, like: str, dst: Path) -> int:
    """Writes the directory `dst` (new or empty) and returns its number of calls. Raises ValueError above 30 MB, CheckpointError."""
    cases = suite.cases()
    tensors = dict(_tensors(suite, cases))
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > LARGEST:
        raise ValueError(f"the cases are {size / 1e6:.0f} MB, more than {LARGEST / 1e6:.0f}; take a smaller shape or dtype")
    calls = [call for case in cases for call in _calls(case)]
    with new_directory(dst) as scratch:
        save_file(tensors, scratch / INPUTS, metadata={"format": "pt"})
        (scratch / INPUTS).chmod(0o644)  # safetensors makes it private to its owner
        manifest = {
            "format": FORMAT, "moe_harness": version("moe-harness"), "like": like, "dtype": suite.dtype,
            "routing": asdict(suite.config.routing), "shapes": {name: asdict(shape) for name, shape in suite.shapes.items()},
            "sha256": {INPUTS: _sha256(scratch / INPUTS)}, "calls": calls,
        }  # fmt: skip
        write_json(scratch / MANIFEST, manifest)
        words = {"version": version("moe-harness"), "like": like, "dtype": suite.dtype, "count": len(calls)}
        (scratch / README).write_text(TEXT.format(inputs=INPUTS, manifest=MANIFEST, outputs=OUTPUTS, **words), "utf-8")
    return len(calls)


def call_names(case: Case) -> list[str]:
    """One a call: the case's own name, numbered where there are several."""
    return [case.name] if len(case.calls) == 1 else [f"{case.name}#{i}" for i in range(1, len(case.calls) + 1)]


def _calls(case: Case) -> list[dict[str, Any]]:
    spoilt = [] if case.spoilt_T is None else np.nonzero(case.spoilt_T)[0].tolist()
    about = {"case": case.name, "group": case.group, "about": case.about, "shape": case.shape, "nan": spoilt}
    return [{"name": name, "tokens": len(call.x_TD), **about} for name, call in zip(call_names(case), case.calls, strict=True)]


def _tensors(suite: Suite, cases: list[Case]) -> Iterator[tuple[str, np.ndarray]]:
    for shape in suite.shapes:
        weights = suite.weights(shape)
        yield from ((f"{shape}/w_gate_up", weights.gate_up_E2FD), (f"{shape}/w_down", weights.down_EDF))
    dtype = numpy_dtype(suite.dtype)
    for case in cases:
        for name, call in zip(call_names(case), case.calls, strict=True):
            yield from ((f"{name}/x", call.x_TD.astype(dtype)), (f"{name}/topk_ids", call.topk_ids_TK))
            yield f"{name}/topk_weights", call.topk_weights_TK
            if call.router_logits_TE is not None:
                yield f"{name}/router_logits", call.router_logits_TE.astype(dtype)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an export whose inputs are as they were written. Raises ValueError, FileNotFoundError."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
        known = manifest["format"] == FORMAT
        recorded = manifest["sha256"][INPUTS]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory / MANIFEST}: not a manifest of exported cases ({error})") from error
    if not known:
        raise ValueError(f"{directory / MANIFEST}: format {manifest['format']!r}, this version reads {FORMAT}")
    if _sha256(directory / INPUTS) != recorded:
        raise ValueError(f"{directory / INPUTS}: changed since it was exported (sha256 differs from the manifest's)")
    return manifest


def shape_of(manifest: dict[str, Any], name: str) -> Shape:
    return Shape(**manifest["shapes"][name])
