"""Draws the pictures of verdict.md: `python docs/pictures.py`. Numbers come from the harness itself."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from moe_harness.cases.cases import golden_cases
from moe_harness.cases.tensors import round_to
from moe_harness.emulator.honest import HONEST
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.subject import SubjectBackend
from moe_harness.implementations.interface import LoadSpec, PinnedRouting
from moe_harness.judge.errors import block_errors
from moe_harness.mutants.catalogue import SEEDED_KINDS, faulty, honest
from moe_harness.suite.bounds.case import floors_of

HERE = Path(__file__).parent
DTYPE, LAYER = "bfloat16", 1
WRONG = ("gate-up-swapped", "silu-missing", "relu-for-silu", "uniform-weights", "weights-in-score-order", "scatter-overwrites")
TOKENS = ((2.0, 3.1, "uncertified: no rounding does this"), (2.52, 2.6, "excused: within the margin"), (2.9, 2.2, "agrees"))
INK, HONEST_COLOUR, WRONG_COLOUR = "#222222", "#4477aa", "#cc3311"
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "moe-harness", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False}


def block_error(seams: Seams) -> float:
    """Relative RMS error of one MoE block of the golden Qwen3-MoE over a golden prompt, with the experts that the subject chooses."""
    case = next(case for case in golden_cases() if case.name == "qwen3_moe")
    model = SubjectBackend("picture", seams).load(str(case.checkpoint), LoadSpec(DTYPE))
    x_TD = round_to(case.free_run(0).x_LSD[LAYER], DTYPE)
    ids_TK = model.route(LAYER, x_TD).topk_ids_LTK[0]
    return block_errors(model.moe_block(LAYER, x_TD), case.oracle.moe_block(LAYER, x_TD, ids_TK)[0], ids_TK)["block_error"]


def floor_picture() -> None:
    case = next(case for case in golden_cases() if case.name == "qwen3_moe")
    x_TD = round_to(case.free_run(0).x_LSD[LAYER], DTYPE)
    ids_TK = case.oracle.route(LAYER, x_TD)[1]
    limit = floors_of(case, DTYPE).block(LAYER, x_TD, PinnedRouting(ids_TK[None]))["block_error"]
    kinds = sorted(block_error(honest(kind.id, 1)) for kind in SEEDED_KINDS)
    wrong = [(block_error(faulty(name)), name) for name in WRONG if block_error(faulty(name)) > 1.01 * block_error(HONEST)]
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    axes.axvspan(kinds[0] / 2, limit.bound, color=HONEST_COLOUR, alpha=0.12, lw=0)
    axes.plot(kinds, np.linspace(0.15, 0.85, len(kinds)), "o", ms=4, color=HONEST_COLOUR)
    axes.axvline(limit.bound, color=INK, lw=1.5)
    axes.text(limit.bound * 1.05, 0.93, f"bound {limit.bound:.2g}", color=INK)
    axes.text(kinds[len(kinds) // 2], 1.02, f"{len(kinds)} kinds of honest\nimplementations", ha="center", color=HONEST_COLOUR)
    for height, (error, name) in zip(np.linspace(0.1, 0.8, len(wrong)), sorted(wrong, reverse=True), strict=True):
        axes.plot(error, height, "X", ms=8, color=WRONG_COLOUR)
        axes.text(error / 1.08, height, name, ha="right", va="center", color=WRONG_COLOUR, fontsize=10)
    axes.set(xscale="log", xlabel=f"relative RMS error of one MoE block, {DTYPE}", yticks=[], ylim=(0, 1.25), xlim=(kinds[0] / 2, 3))
    axes.spines["left"].set_visible(False)
    save(figure, "verdict-floor.svg")


def margin_picture() -> None:
    """A sketch: three tokens with the oracle's logits of experts i and j, and what rounding allows."""
    figure, axes = plt.subplots(figsize=(9, 2.9), layout="constrained")
    for row, (i, j, word) in enumerate(TOKENS):
        for logit, name in ((i, "i"), (j, "j")):
            axes.plot([logit - 0.12, logit + 0.12], [row, row], lw=7, alpha=0.3, color=INK, solid_capstyle="butt")
            axes.plot(logit, row, "o" if name == "i" else "D", ms=8, color=HONEST_COLOUR if name == "i" else INK)
            axes.text(logit, row + 0.2, f"{name}", ha="center")
        axes.text(3.45, row, word, va="center", color=WRONG_COLOUR if row == 0 else INK)
    axes.set(yticks=[], ylim=(-0.5, 2.7), xlim=(1.7, 4.6), xticks=[2.0, 2.5, 3.0])
    axes.set_xlabel("the oracle's router logits; bars: ± δ; the candidate chose i")
    axes.spines["left"].set_visible(False)
    save(figure, "verdict-margin.svg")


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(HERE / name, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        floor_picture()
        margin_picture()
