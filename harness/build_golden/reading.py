"""The oracle's reading of a prompt: its experts and margins, and those on the other side of a near-tie. Stored prompts are checked against
it, without measuring noise again.

Legend: B prompts, X sides, L MoE layers, S sequence, E experts, K top-k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from moe_harness.cases.prompts import CLEAR, Key, Prompts
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.oracle.model import Oracle, OracleOutput
from moe_harness.oracle.routing import gap, in_top_groups, select

Tie = tuple[int, int]  # (MoE layer, position)
SAME = 1e-9  # of two float64 runs on different machines, in units of what is ranked


@dataclass(frozen=True)
class Reading:
    """A prompt as the oracle runs it. `sides`: one run, or two where there is a near-tie at `tie`."""

    input_ids_S: np.ndarray
    sides: tuple[OracleOutput, ...]
    margin_XLS: np.ndarray
    tie: Tie | None = None

    @property
    def ids_XLSK(self) -> np.ndarray:
        return np.stack([run.topk_ids_LSK for run in self.sides])


def read(oracle: Oracle, input_ids_S: np.ndarray, tie: Tie | None = None) -> Reading:
    """Runs the oracle; with a `tie`, on its other side too, and the margins there are those of its two experts to all others."""
    run = oracle.forward(input_ids_S)
    sides = (run,) if tie is None else (run, other_side(oracle, run, input_ids_S, tie))
    margin_XLS = np.stack([margins(oracle, side) for side in sides])
    if tie is not None:
        margin_XLS[:, tie[0], tie[1]] = [beside_tie(rankings(oracle, side)[tie[0]][tie[1]], oracle.config.routing) for side in sides]
    return Reading(input_ids_S, sides, margin_XLS, tie)


def margins(oracle: Oracle, run: OracleOutput) -> np.ndarray:
    """margin_LS: by how much the expert of rank K, or the group, leads the next."""
    return np.stack([gap(ranking_SE, oracle.config.routing) for ranking_SE in rankings(oracle, run)])


def rankings(oracle: Oracle, run: OracleOutput) -> np.ndarray:
    """ranking_LSE of every MoE layer."""
    return np.stack([oracle.ranking(layer, logits_SE) for layer, logits_SE in enumerate(run.router_logits_LSE)])


def beside_tie(ranking_E: np.ndarray, spec: RoutingSpec) -> float:
    """By how much the experts of rank K and K+1 are apart from those before and after them, and the groups from each other: as long as
    rounding does not bridge that, either of the two is chosen and nothing else."""
    return min(float(gap(ranking_E[None], replace(spec, top_k=k))[0]) for k in (spec.top_k - 1, spec.top_k + 1) if k)


def other_side(oracle: Oracle, run: OracleOutput, input_ids_S: np.ndarray, tie: Tie) -> OracleOutput:
    """The run in which the expert of rank K+1 takes the place of rank K at the tie; every later selection is the oracle's own, given that:
    each pass settles one more layer."""
    (layer, position), spec = tie, oracle.config.routing
    ids_LSK, order = run.topk_ids_LSK.copy(), by_rank(rankings(oracle, run)[layer, position], spec)
    ids_LSK[layer, position] = [*order[: spec.top_k - 1], order[spec.top_k]]
    for unsettled in range(layer + 1, len(ids_LSK)):
        ids_LSK[unsettled] = select(rankings(oracle, oracle.forward(input_ids_S, ids_LSK))[unsettled], spec)
    return oracle.forward(input_ids_S, ids_LSK)


def by_rank(ranking_E: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """Experts by falling rank; those of groups that are out come last."""
    if spec.num_groups > 1:
        ranking_E = np.where(in_top_groups(ranking_E[None], spec)[0], ranking_E, -np.inf)
    return np.argsort(-ranking_E, kind="stable")


def problems(oracle: Oracle, found: Mapping[Key, Prompts]) -> Iterator[str]:
    """What is wrong with the prompts, one phrase each."""
    for (kind, dtype), prompts in found.items():
        for row in range(len(prompts)):
            yield from (f"{kind} prompt {row} of {dtype}: {problem}" for problem in _problems(oracle, kind, prompts, row))


def _problems(oracle: Oracle, kind: str, prompts: Prompts, row: int) -> Iterator[str]:
    input_ids_S, tie = prompts.input_ids_BS[row], tuple(prompts.tie_B2[row].tolist())
    reading = read(oracle, input_ids_S, None if kind == CLEAR else tie)
    if not np.array_equal(np.sort(reading.ids_XLSK), np.sort(prompts.ids_BXLSK[row])):
        yield "the oracle selects other experts"
    elif not np.allclose(reading.margin_XLS, prompts.margin_BXLS[row], rtol=0, atol=SAME):
        yield "the oracle's margins are others"
    if not (reading.margin_XLS > prompts.noise_BXLS[row]).all():
        yield "a margin is within the noise"
    if kind != CLEAR and not abs(margins(oracle, reading.sides[0])[tie] - prompts.tie_margin_B[row]) <= SAME:
        yield "the near-tie is not as near as recorded"
