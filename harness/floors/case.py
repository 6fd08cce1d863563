"""The floors of one case in one dtype: what every comparison of a check is held against."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from harness.cases import Case, golden_root
from harness.floors.profile import SITES, Profile, can_profile, profile
from harness.floors.table import CONFIDENCE, FALSE_ALARMS, COMPARISONS, FILE, Floor, Table, read
from harness.floors.tolerance import Spread
from harness.judge.limit import Limit, Limits


@dataclass(frozen=True)
class CaseFloors:
    """`profile` None: the case was not profiled, and the spread of profiles over cases is part of every limit."""

    table: Table
    dtype: str
    profile: Profile | None

    def at(self, tokens: int, layer: int = 0) -> Limits:
        """Limits by metric for an answer of so many tokens; `layer` counts MoE layers, for the block's metrics."""
        return {metric: self._limit(metric, tokens, layer) for metric in SITES}

    def share_within(self, metric: str, value: float, tokens: int, layer: int = 0) -> float:
        """Share of the honest samples that showed no more than `value`. 0 where the case was not profiled."""
        if self.profile is None or not value > 0:
            return 0.0
        log_ratio = math.log(value / self.profile.site(metric, layer))
        return min(floor.share_within(log_ratio) for floor in self.table.around(self.dtype, metric, tokens))

    def _limit(self, metric: str, tokens: int, layer: int) -> Limit:
        floors = self.table.around(self.dtype, metric, max(tokens, 1))
        if self.profile is not None:
            typical, logs = math.log(self.profile.site(metric, layer)), [(f.spread.mean, f.limit) for f in floors]
        else:
            typical, logs = 0.0, [_unprofiled(f, self._typical[SITES[metric]]) for f in floors]
        return Limit(math.exp(typical + max(mean for mean, _ in logs)), math.exp(typical + max(limit for _, limit in logs)))

    @cached_property
    def _typical(self) -> dict[str, Spread]:
        return {site: spread for (dtype, site), spread in self.table.profiles.items() if dtype == self.dtype}


def _unprofiled(floor: Floor, typical: Spread) -> tuple[float, float]:
    """(mean, limit) of the log error itself: ratio and profile both vary, and few cases stand behind the profile's spread."""
    both = Spread(
        floor.spread.mean + typical.mean, math.hypot(floor.spread.deviation, typical.deviation), min(floor.spread.independent, typical.independent)
    )
    return both.mean, both.limit(FALSE_ALARMS / COMPARISONS, CONFIDENCE)


def floors_of(case: Case, dtype: str) -> CaseFloors:
    """Reads the packaged table, which a golden directory given by hand does not replace: floors are about arithmetic, not about weights."""
    table = read(golden_root() / FILE)
    return CaseFloors(table, dtype, profile(case, dtype) if can_profile(case) else None)
