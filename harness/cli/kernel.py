"""`moe-harness kernel`: a verdict on one fused MoE function, or on outputs computed elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moe_harness.cli.errors import readable_errors


def kernel(
    function: Annotated[str | None, typer.Argument(metavar="MODULE:FUNCTION", help="The kernel, or an adapter around it.")] = None,
    like: Annotated[str, typer.Option(metavar="MODEL", help="A known model, a config.json or an HF directory: its layer's shape.")] = "",
    dtype: Annotated[str, typer.Option(metavar="NAME", help="bf16 | fp16 | fp32, or the long names.")] = "bf16",
    device: Annotated[str, typer.Option(metavar="NAME", help="Where the tensors are: cpu | cuda | ...")] = "cpu",
    arrays: Annotated[str, typer.Option(metavar="KIND", help="What the function is given: torch | numpy.")] = "torch",
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
    from moe_harness.kernel.door import Request, answer

    with readable_errors():
        request = Request(
            function,
            like,
            dtype,
            device,
            arrays,
            true_shape,
            small_shape,
            tuple(case or ()),
            timeout,
            in_process,
            markdown,
            json_file,
            profile,
        )
        code = answer(request, export, judge)
    raise typer.Exit(code)
