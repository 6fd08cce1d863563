"""How statuses moved between two runs: new failures, fixed, vanished, newly asked, not run, other changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe_harness.records.status import FAILING, Status, rank
from moe_harness.report.compare.identity import Key, Row

KINDS = ("new failure", "vanished", "not run", "status changed", "fixed", "newly asked", "still failing")  # most pressing first
ABSENT = "not asked"


@dataclass(frozen=True)
class Outcome:
    """One question whose answer differs, or still fails. `before`, `after`: statuses, ABSENT where it was not asked. `reason` and
    `reproduce` are of the run, of the base where it vanished."""

    kind: str
    key: Key
    before: str
    after: str
    title: str
    reason: str
    reproduce: str


def outcomes(base: Mapping[Key, Sequence[Row]], run: Mapping[Key, Sequence[Row]]) -> list[Outcome]:
    """In the order of KINDS, then of keys. What several runs answered counts as the worst answer."""
    found = [_outcome(key, _worst(base.get(key, ())), _worst(run.get(key, ()))) for key in sorted({*base, *run})]
    return sorted((each for each in found if each is not None), key=lambda each: (KINDS.index(each.kind), each.key))


def _worst(rows: Sequence[Row]) -> Row | None:
    return min(rows, key=lambda row: rank(row["status"]), default=None)


def _outcome(key: Key, base: Row | None, run: Row | None) -> Outcome | None:
    before, after = (ABSENT if row is None else str(row["status"]) for row in (base, run))
    kind = _kind(before, after)
    row = base if run is None else run
    if not kind or row is None:
        return None
    return Outcome(kind, key, before, after, str(row["title"] or ""), str(row["reason"] or ""), str(row["reproduce"] or ""))


def _kind(before: str, after: str) -> str:
    """ "" where nothing moved and nothing fails."""
    if after in FAILING:
        return "new failure" if before not in FAILING else "still failing" if before == after else "status changed"
    if before == after:
        return ""
    if after == ABSENT:
        return "vanished"
    if after == Status.NOT_RUN:
        return "not run"
    if before == ABSENT:
        return "newly asked"
    return "fixed" if before in FAILING and after == Status.PASS else "status changed"
