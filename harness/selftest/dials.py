"""Errors of any size, on an honest subject otherwise: how small may they be and still be seen? And the numpy subject under a name: an entry
of the catalogue, or honest but for a dial that is turned.

Legend: T tokens, E experts, K top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from moe_harness.emulator.honest import HONEST
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.routing import select_top_k
from moe_harness.emulator.seams import Seams, changed
from moe_harness.emulator.subject import SubjectBackend
from moe_harness.emulator.values import ExpertJob
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.mutants import catalogue

EXPERT = 1  # the one that is off, in every layer
Turn = Callable[[Seams, float], Seams]


@dataclass(frozen=True)
class Dial:
    """`seams`: the honest ones with an error of this size. `low`, `high`: octaves (powers of two) between which it is sought. `says`: the
    size in a reader's words."""

    name: str
    what: str
    seams: Turn
    low: int
    high: int
    says: Callable[[float], str]


def expert_scale(seams: Seams, size: float) -> Seams:
    """One expert's output is 1 + size times what it should be."""

    def run_experts(job: ExpertJob, inner: Seams) -> Array:
        down_EDF = job.down_EDF.copy()
        down_EDF[EXPERT] *= np.float32(1 + size)
        return seams.experts.run_experts(replace(job, down_EDF=down_EDF), inner)

    return changed(seams, run_experts=run_experts)


def selection_bias(seams: Seams, size: float) -> Seams:
    """Selection, not the weights, sees one expert's logit `size` too high. Scores of a sigmoid move by at most a quarter of that."""

    def select(ranking_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
        plain = not spec.correction_bias and spec.num_groups == 1
        moved_TE = logits_TE.copy() if plain else ranking_TE.copy()
        moved_TE[:, EXPERT] += np.float32(size if plain else size / 4)
        return select_top_k(moved_TE, logits_TE, spec)

    return changed(seams, select=select)


def router_precision(seams: Seams, size: float) -> Seams:
    """The router reads, weighs and answers with numbers whose relative error is up to `size`: -log2(size) significant bits."""

    def router_logits(x_TD: Array, router_ED: Array, rounding: Rounding, inner: Seams) -> Array:
        bits = round(-np.log2(size))
        exact = seams.router.router_logits(_kept(x_TD, bits), _kept(router_ED, bits), rounding, inner)
        return _kept(exact, bits)

    return changed(seams, router_logits=router_logits)


def _kept(x: Array, bits: int) -> Array:
    """Rounded to so many significant bits."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent).astype(np.float32)


def _percent(size: float) -> str:
    return f"{100 * size:.2g} %"


DIALS = {
    dial.name: dial
    for dial in (
        Dial("expert-scale", "one expert's output too large", expert_scale, -24, 2, _percent),
        Dial("selection-bias", "one expert's logit too high in selection", selection_bias, -24, 4, lambda size: f"{size:.2g} logits"),
        Dial("router-precision", "a router that keeps too few significant bits", router_precision, -24, -1,
             lambda size: f"{round(-np.log2(size))} bits"),
    )
}  # fmt: skip


def backend(name: str) -> SubjectBackend:
    """`name`: an id of the catalogue, "" for the honest subject, "DIAL=VALUE". Raises ValueError or KeyError for another one."""
    dial, turned, value = name.partition("=")
    if not turned:
        return catalogue.backend(name or None)
    return SubjectBackend(f"{catalogue.SPECIFICATION}:{name}", DIALS[dial].seams(HONEST, float(value)))
