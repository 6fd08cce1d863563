"""`moe-harness golden`: golden data made, searched, verified, and the bounds measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moe_harness.cli.errors import readable_errors

golden_app = typer.Typer(no_args_is_help=True, help="Golden data: `train`, `make` HF's outputs, search `prompts`, `verify`.")
GoldenRoot = Annotated[Path | None, typer.Option("--golden", metavar="DIR", help="Golden data (default: the packaged ones).")]


@golden_app.command("train")
def golden_train(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="mixtral, qwen3_moe, ...: a golden model.")],
    steps: Annotated[int | None, typer.Option(help="Optimiser steps (default: about three minutes on one core).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    golden: GoldenRoot = None,
) -> None:
    """Train a golden checkpoint with the hf backend and replace the old one, if it reaches the bars."""
    from moe_harness.build_golden import build as data
    from moe_harness.cases.cases import golden_root
    from moe_harness.cases.golden_models import GOLDEN_CONFIGS, TRAIN_STEPS

    if family not in GOLDEN_CONFIGS:
        raise typer.BadParameter(f"unknown golden model {family!r}; known: {', '.join(GOLDEN_CONFIGS)}")
    with readable_errors():
        facts = data.train(golden or golden_root(), family, steps or TRAIN_STEPS, seed)
    for name, value in facts.items():
        typer.echo(f"{name:>12} {value:g}")


@golden_app.command("make")
def golden_make(golden: GoldenRoot = None) -> None:
    """Run HF in float32 on the golden checkpoints and write its outputs, the oracle's margins and the manifest."""
    from moe_harness.build_golden import build as data
    from moe_harness.cases.cases import golden_root

    with readable_errors():
        data.make(golden or golden_root())
    golden_verify(golden, rerun=False)


@golden_app.command("prompts")
def golden_prompts(
    seed: Annotated[int, typer.Option(help="Seed of the stretches of text that prompts start from.")] = 0,
    golden: GoldenRoot = None,
) -> None:
    """Search prompts on which no honest implementation flips an expert, and near-ties on which honest ones do. Takes minutes."""
    from moe_harness.build_golden import build as data
    from moe_harness.cases.cases import golden_root

    try:
        for family, by_dtype in data.make_prompts(golden or golden_root(), seed):
            for dtype, facts in by_dtype.items():
                typer.echo(f"{family} {dtype}: " + ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in facts.items()))
    except data.GoldenError as error:
        typer.echo(f"golden data: {error}", err=True)
        raise typer.Exit(1) from error


@golden_app.command("verify")
def golden_verify(
    golden: GoldenRoot = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Also run HF again on this machine.")] = False,
) -> None:
    """Check every file's sha256 and HF's golden logits against the oracle. Exit code 1 if something differs."""
    from moe_harness.build_golden import build as data
    from moe_harness.cases.cases import golden_root

    try:
        with readable_errors():
            for seen in data.verify(golden or golden_root(), rerun):
                again = "" if seen.rerun is None else f", against HF run again {seen.rerun:.2g}"
                typer.echo(f"{seen.family}: {seen.tokens} tokens, relative RMS against the oracle {seen.oracle:.2g}{again}")
    except data.GoldenError as error:
        typer.echo(f"golden data: {error}", err=True)
        raise typer.Exit(1) from error


@golden_app.command("synthesize")
def golden_synthesize(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A config.json, an HF directory or a known model's name.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="New or empty directory to write.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bits.")] = 0,
    router_scale: Annotated[float, typer.Option(help="Spread of the router logits: flat is 0.5, peaked 4.0.")] = 1.0,
) -> None:
    """Write a random HF checkpoint of any size, tensor by tensor: for shapes and speed, where trained weights do not matter."""
    from moe_harness.cases.describe import read_model
    from moe_harness.cases.synthetic import synthesize

    with readable_errors():
        synthesize(read_model(config), dst, seed, router_scale)
        typer.echo(f"{dst}: written")


@golden_app.command("floors")
def floors(
    golden: GoldenRoot = None,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of every kind of honest implementation.")] = 10,
) -> None:
    """Measure every kind of honest implementation in every dtype and write floors.json. A quarter of an hour on two cores. Exit code 1 if
    more than one in 100 000 samples of kinds, or of cases, exceed the limits made without them."""
    from moe_harness.build_golden import calibrate as make
    from moe_harness.build_golden.build import update_manifest
    from moe_harness.cases.cases import golden_root
    from moe_harness.suite.bounds import table

    root = golden or golden_root()
    made = make.calibrate(root, seeds)
    table.write(made, root / table.FILE)
    update_manifest(root)
    for source, found in made.facts["left_out"].items():
        typer.echo(f"each of the {source} left out: {found['exceeding']} of {found['samples']} samples exceed the limits of the others")
        typer.echo(f"  worst: {found['worst']} at {found['at']}, {found['of_its_limit']:.2f} of its limit")
    if any(found["exceeding"] > table.RARE * found["samples"] for found in made.facts["left_out"].values()):
        raise typer.Exit(1)
