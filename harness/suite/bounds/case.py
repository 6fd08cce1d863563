"""The floors of one case in one dtype: the limits that every comparison of a check is held against. Legend: T tokens, S sequence, D hidden,
V vocabulary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moe_harness.cases.cases import Case, golden_root
from moe_harness.implementations.interface import PinnedRouting
from moe_harness.judge.limit import Limit, Limits
from moe_harness.judge.metric import BLOCK, FREE, PASS, of_short
from moe_harness.suite.bounds.reference import LONGEST, Errors, Reference, can_refer
from moe_harness.suite.bounds.table import FILE, LONG_ENOUGH, SHORT, Table, read


@dataclass(frozen=True)
class CaseFloors:
    """`reference` None: the case is too large to run it, and limits come from the table's typical errors."""

    table: Table
    dtype: str
    reference: Reference | None

    def block(self, layer: int, x_TD: np.ndarray, pinned: PinnedRouting, rows: np.ndarray | None = None) -> Limits:
        """Of one MoE block's output on these hidden states under these experts, with these weights or the block's own; judged on `rows`."""
        if self.reference is None or not len(x_TD):
            return self.typical(BLOCK, len(x_TD))
        rows = np.ones(len(x_TD), bool) if rows is None else rows
        return self.over(self.reference.block(layer, x_TD, pinned, rows), int(rows.sum()))

    def forward(self, input_ids_S: np.ndarray, pinned: PinnedRouting | None = None, at: slice = slice(None)) -> Limits:
        """Of a sequence through the whole model; of the positions `at`."""
        tokens, length = len(input_ids_S[at]), len(input_ids_S)
        if self.reference is None or length > LONGEST:
            return self.typical(PASS, tokens)
        return self.over(self.reference.forward(input_ids_S, pinned).errors(at), tokens, length)

    def free(self, input_ids_BS: np.ndarray) -> Limits:
        """Of free-running distributions: the median position of the quietest row."""
        if self.reference is None or input_ids_BS.shape[1] > LONGEST:
            return self.typical(FREE, input_ids_BS.shape[1])
        quietest = min(self.reference.forward(row_S).divergence for row_S in input_ids_BS)
        return self.over({"median_kl_nats": quietest}, input_ids_BS.shape[1])

    def over(self, errors: Errors, tokens: int, length: int = LONG_ENOUGH) -> Limits:
        """What honest implementations may show where the reference shows these errors. `length`: of the sequence that the tokens are of."""
        return {metric: self._limit(_measured(metric, length), value, tokens) for metric, value in errors.items()}

    def typical(self, metrics: tuple[str, ...], tokens: int) -> Limits:
        """Without a reference: the typical error of the cases that were measured, and how far cases lie apart."""
        return {metric: self._typical[metric, self.table.nearest(self.dtype, metric, tokens)] for metric in metrics}

    @cached_property
    def _typical(self) -> dict[tuple[str, int], Limit]:
        found = {(metric, tokens): floor for (dtype, metric, tokens), floor in self.table.typical.items() if dtype == self.dtype}
        bounds = {key: math.exp(floor.limit) for key, floor in found.items()}
        blind = {key: key[0] not in FREE and bound >= 1 for key, bound in bounds.items()}
        return {key: Limit(math.exp(floor.spread.mean), bounds[key], blind[key]) for key, floor in found.items()}

    def _limit(self, metrics: list[str], value: float, tokens: int) -> Limit:
        floors = [floor for metric in metrics for floor in self.table.around(self.dtype, metric, tokens)]
        return Limit(value * math.exp(max(f.spread.mean for f in floors)), value * math.exp(max(f.limit for f in floors)))

    def share_within(self, metric: str, value: float, noise: float, tokens: int) -> float:
        """Share of the honest samples that showed no more than `value` where the typical one shows `noise`."""
        floors = self.table.around(self.dtype, metric, tokens)
        above = math.log(value / noise) if value > 0 and noise > 0 else math.inf if value > 0 else -math.inf
        return min(floor.share_within(above + floor.spread.mean) for floor in floors)


def _measured(metric: str, length: int) -> list[str]:
    """The names under which a metric was measured on sequences about as long: of what lies between short and long, both."""
    if metric not in PASS or length >= LONG_ENOUGH:
        return [metric]
    return [of_short(metric)] if length <= SHORT else [metric, of_short(metric)]


def floors_of(case: Case, dtype: str) -> CaseFloors:
    """Reads the packaged table, which a golden directory given by hand does not replace: floors are about arithmetic, not about weights."""
    return CaseFloors(read(golden_root() / FILE), dtype, Reference(case, dtype) if can_refer(case) else None)
