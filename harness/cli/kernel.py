"""`moe-harness kernel`: a verdict on one fused MoE function, or on outputs computed elsewhere."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from moe_harness.cases.describe import read_model
from moe_harness.implementations.interface import DTYPES, CheckpointError, InvalidInput, Unsupported
from moe_harness.implementations.kernels.loading import ARRAYS, load_kernel
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


def kernel(
    function: Annotated[str | None, typer.Argument(metavar="MODULE:FUNCTION", help="The kernel, or an adapter around it.")] = None,
    like: Annotated[str, typer.Option(metavar="MODEL", help="A known model, a config.json or an HF directory: its layer's shape.")] = "",
    dtype: Annotated[str, typer.Option(metavar="NAME", help="bf16 | fp16 | fp32, or the long names.")] = "bf16",
    device: Annotated[str, typer.Option(metavar="NAME", help="Where the tensors are: cpu | cuda | ...")] = "cpu",
    arrays: Annotated[str, typer.Option(metavar="KIND", help=f"What the function is given: {' | '.join(ARRAYS)}.")] = "torch",
    true_shape: Annotated[bool, typer.Option(help="Also on the layer as large as the model's own.")] = True,
    small_shape: Annotated[str | None, typer.Option(metavar="DxF", help="For kernels that take only multiples of their tile.")] = None,
    case: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this case; repeatable.")] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Longest case; it is then TIMEOUT.")] = 300.0,
    in_process: Annotated[bool, typer.Option("--in-process", help="Without a process of the kernel's own: for a debugger.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="A short table for a pull request instead of lines.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write every metric.")] = None,
    export: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the small cases as safetensors instead of running.")] = None,
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="Say whether it conforms to this list: kernel-1.0.")] = None,
    judge: Annotated[Path | None, typer.Option(metavar="DIR", help="Judge DIR/outputs.safetensors, computed from an export.")] = None,
) -> None:
    """Judge one fused MoE function, case by case, against the float64 oracle. Exit codes: 0 right, 1 wrong, 2 usage.

    The function is called with keyword arguments chosen by the names of its parameters, out of: x (T, D), topk_ids (T, K) int64,
    topk_weights (T, K) float32, router_logits (T, E), top_k, renormalize, w_gate_up (E, 2F, D), w_gate and w_up (E, F, D),
    w_down (E, D, F). It returns y (T, D). See docs/kernel.md.
    """
    try:
        if (function is not None) + (export is not None) + (judge is not None) != 1:
            raise InvalidInput("give either MODULE:FUNCTION, or --export DIR, or --judge DIR")
        if profile is not None and function is None:
            raise InvalidInput("--profile goes with MODULE:FUNCTION")
        if judge is not None:
            _finish(f"outputs in {judge}, like {read_manifest(judge)['like']}", iter(judge_outputs(judge)), markdown, json_file)
        suite = replace(_suite(like, dtype, true_shape and export is None, small_shape), only=tuple(case or ()))
        if export is not None:
            typer.echo(f"{export}: {write_export(suite, like, export)} calls written; README.txt says how to answer")
            return
        assert function is not None
        promise = Promise(_profile(profile, suite.dtype), function, suite.dtype) if profile is not None else None
        lines = _lines(function, suite, device, arrays, timeout, in_process)
        _finish(f"{function}, like {like}, {suite.dtype} on {device}", lines, markdown, json_file, promise)
    except (InvalidInput, Unsupported, CheckpointError, FileNotFoundError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


@dataclass(frozen=True)
class Promise:
    """The profile that a kernel shall conform to, in one dtype."""

    profile: profiles.Profile
    subject: str
    dtype: str

    def kept(self, lines: Sequence[Line]) -> bool:
        """Says so, too."""
        gaps = self.profile.gaps({line.name: line.status for line in lines}, self.dtype)
        typer.echo(self.profile.sentence(self.subject, gaps))
        return not gaps


def _profile(name: str, dtype: str) -> profiles.Profile:
    found = profiles.load(name)
    if found.kind != "kernel" or dtype not in found.dtypes:
        raise InvalidInput(f"--profile {name}: asks nothing of a kernel in {dtype}")
    return found


def _suite(like: str, dtype: str, true: bool, small: str | None) -> Suite:
    if dtype not in DTYPE_NAMES:
        raise InvalidInput(f"dtype {dtype!r}; known: {', '.join(DTYPE_NAMES)}")
    if not like:
        raise InvalidInput("--like MODEL says which layer's shape: mixtral-8x7b, a config.json, an HF directory")
    return Suite(read_model(like), DTYPE_NAMES[dtype], true, _dims(small))


def _dims(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    D, cross, F = text.partition("x")
    if not (cross and D.isdecimal() and F.isdecimal()):
        raise InvalidInput(f"--small-shape {text!r}; expected DxF, for example 256x192")
    return int(D), int(F)


def _lines(function: str, suite: Suite, device: str, arrays: str, timeout: float, in_process: bool) -> Iterator[Line]:
    if suite.true:
        check_memory(suite.shapes["true"], suite.dtype, arrays)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a console script does not look for modules where it is called
    if not in_process:
        return guarded(Order(function, suite, device, arrays, timeout))
    found = load_kernel(function, suite.dtype, device, arrays)
    return run_cases(found, suite, asked(suite, found.arguments))


def _finish(title: str, lines: Iterator[Line], markdown: bool, json_file: Path | None, promise: Promise | None = None) -> None:
    """Shows each line as it comes, then the verdict, and exits with its code."""
    began, seen = time.perf_counter(), []
    for line in lines:
        seen.append(line)
        if not markdown:
            typer.echo(render.text(line))
    command = shlex.join(["moe-harness", *sys.argv[1:]])
    verdict = render.Verdict(title, command, tuple(seen), time.perf_counter() - began)
    typer.echo(render.markdown(verdict) if markdown else verdict.sentence())
    kept = promise is None or promise.kept(seen)
    if json_file is not None:
        json_file.write_text(json.dumps(render.as_json(verdict), indent=1, allow_nan=False) + "\n", "utf-8")
    raise typer.Exit(0 if verdict.passed and kept else 1)
