"""The kernel door: from a request to lines, a verdict and an exit code. The command line is `moe-harness kernel`."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from moe_harness.cases.describe import read_model
from moe_harness.implementations.interface import DTYPES, InvalidInput
from moe_harness.implementations.kernels.loading import load_kernel
from moe_harness.kernel import render
from moe_harness.kernel.check import Line
from moe_harness.kernel.export import export as write_export
from moe_harness.kernel.export import read_manifest
from moe_harness.kernel.guarded import Order, guarded
from moe_harness.kernel.offline import judge_outputs
from moe_harness.kernel.run import Suite, asked, check_memory
from moe_harness.kernel.run import run as run_cases
from moe_harness.suite import profiles

DTYPE_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", **{name: name for name in DTYPES}}


@dataclass(frozen=True)
class Request:
    """The options of `moe-harness kernel`, under their names."""

    function: str | None
    like: str
    dtype: str
    device: str
    arrays: str
    true_shape: bool
    small_shape: str | None
    only: tuple[str, ...]
    timeout: float
    in_process: bool
    markdown: bool
    json_file: Path | None
    profile: str | None

    def suite(self, true_shape: bool) -> Suite:
        """The cases asked for. Raises InvalidInput for a dtype, a model or a shape that is none."""
        if self.dtype not in DTYPE_NAMES:
            raise InvalidInput(f"dtype {self.dtype!r}; known: {', '.join(DTYPE_NAMES)}")
        if not self.like:
            raise InvalidInput("--like MODEL says which layer's shape: mixtral-8x7b, a config.json, an HF directory")
        return Suite(read_model(self.like), DTYPE_NAMES[self.dtype], true_shape, _dims(self.small_shape), self.only)


def answer(request: Request, export: Path | None, outputs: Path | None) -> int:
    """Judge a function, or `outputs` computed elsewhere, or write an export for that; the exit code. Raises InvalidInput, Unsupported,
    CheckpointError, FileNotFoundError and ValueError for bad input."""
    if (request.function is not None) + (export is not None) + (outputs is not None) != 1:
        raise InvalidInput("give either MODULE:FUNCTION, or --export DIR, or --judge DIR")
    if request.profile is not None and request.function is None:
        raise InvalidInput("--profile goes with MODULE:FUNCTION")
    if outputs is not None:
        return _finish(request, f"outputs in {outputs}, like {read_manifest(outputs)['like']}", iter(judge_outputs(outputs)))
    suite = request.suite(request.true_shape and export is None)
    if export is not None:
        typer.echo(f"{export}: {write_export(suite, request.like, export)} calls written; README.txt says how to answer")
        return 0
    promise = _promise(request, suite.dtype)
    return _finish(request, f"{request.function}, like {request.like}, {suite.dtype} on {request.device}", _lines(request, suite), promise)


@dataclass(frozen=True)
class Promise:
    """The profile that a kernel shall conform to, in one dtype."""

    profile: profiles.Profile
    subject: str
    dtype: str

    def kept(self, lines: Sequence[Line]) -> bool:
        """Print the result and return whether the profile is met."""
        gaps = self.profile.gaps({line.name: line.status for line in lines}, self.dtype)
        typer.echo(self.profile.sentence(self.subject, gaps))
        return not gaps


def _promise(request: Request, dtype: str) -> Promise | None:
    if request.profile is None or request.function is None:
        return None
    found = profiles.load(request.profile)
    if found.kind != "kernel" or dtype not in found.dtypes:
        raise InvalidInput(f"--profile {request.profile}: asks nothing of a kernel in {dtype}")
    return Promise(found, request.function, dtype)


def _dims(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    D, cross, F = text.partition("x")
    if not (cross and D.isdecimal() and F.isdecimal()):
        raise InvalidInput(f"--small-shape {text!r}; expected DxF, for example 256x192")
    return int(D), int(F)


def _lines(request: Request, suite: Suite) -> Iterator[Line]:
    assert request.function is not None
    if suite.true:
        check_memory(suite.shapes["true"], suite.dtype, request.arrays)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a console script does not look for modules where it is called
    if not request.in_process:
        return guarded(Order(request.function, suite, request.device, request.arrays, request.timeout))
    found = load_kernel(request.function, suite.dtype, request.device, request.arrays)
    return run_cases(found, suite, asked(suite, found.arguments))


def _finish(request: Request, title: str, lines: Iterator[Line], promise: Promise | None = None) -> int:
    """Show each line as it comes, then the verdict; its exit code."""
    began, seen = time.perf_counter(), []
    for line in lines:
        seen.append(line)
        if not request.markdown:
            typer.echo(render.text(line))
    command = shlex.join(["moe-harness", *sys.argv[1:]])
    verdict = render.Verdict(title, command, tuple(seen), time.perf_counter() - began)
    typer.echo(render.markdown(verdict) if request.markdown else verdict.sentence())
    kept = promise is None or promise.kept(seen)
    if request.json_file is not None:
        request.json_file.write_text(json.dumps(render.as_json(verdict), indent=1, allow_nan=False) + "\n", "utf-8")
    return 0 if verdict.passed and kept else 1
