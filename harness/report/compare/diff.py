"""Two runs compared: what changed around them first, then statuses, then speeds; and whether that is reason for alarm. The page, its
files, the terminal and the exit code all read this one comparison.

Exit codes: 1 a new failure, or a check that vanished; or a speed that gates; 4 nothing of the kind, but something that the base had judged
was planned and not run; 0 else. A slower speed gates where the caller insists, and where it recurs (at least two runs show it) on the very
same machine and versions: samples of two runs are not pairs, and two runs of the same build differ by more than 5 % in one of nine
comparisons on a busy machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from moe_harness.records.frame import Frame
from moe_harness.records.status import FAILING, Status
from moe_harness.report.compare.baseline import base_of
from moe_harness.report.compare.identity import Key, Row, by_key
from moe_harness.report.compare.outcomes import Outcome, outcomes
from moe_harness.report.compare.pairs import PairChange, pair_changes
from moe_harness.report.compare.speeds import MARGIN, SpeedChange, speed_changes
from moe_harness.report.compare.surroundings import Surrounding, surroundings


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a run, or several merged, with the rows of each question."""

    frame: Frame
    rows: Mapping[Key, Sequence[Row]]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(run.run_id for run in self.frame.runs)

    def hosts(self, key: Key) -> set[str]:
        """The machines that answered a question, by their own names."""
        names = {run.run_id: str(run.environment.get("hostname")) for run in self.frame.runs}
        return {names[row["run"]] for row in self.rows[key]}


@dataclass(frozen=True)
class Diff:
    """`gating`: the slower speeds that make the exit code 1."""

    base: Side
    run: Side
    surroundings: tuple[Surrounding, ...]
    outcomes: tuple[Outcome, ...]
    speeds: tuple[SpeedChange, ...]
    pairs: tuple[PairChange, ...]
    void: tuple[Outcome, ...]
    gating: tuple[SpeedChange, ...]

    def of(self, *kinds: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.kind in kinds]

    @property
    def new(self) -> frozenset[str]:
        """Ids of the run's rows that fail and did not."""
        keys = [outcome.key for outcome in self.of("new failure")]
        return frozenset(row["id"] for key in keys for row in self.run.rows[key] if row["status"] in FAILING)

    @property
    def paces(self) -> list[SpeedChange]:
        """The speeds that a page names, slowest first: slower or faster on the machine that timed the base, or gating. Another machine's
        speed is news of the machine."""
        shown = [change for change in self._moved if change in self.gating or self._same_host(change)]
        return sorted(shown, key=lambda change: (-change.factor, change.key))

    @property
    def elsewhere(self) -> int:
        """How many speeds moved that are no `paces`."""
        return len(self._moved) - len(self.paces)

    @property
    def code(self) -> int:
        if self.of("new failure", "vanished") or self.gating:
            return 1
        return 4 if self.of("not run") else 0

    @property
    def sentence(self) -> str:
        """The counts of all that moved, or that nothing did."""
        speeds = Counter(change.verdict for change in self.speeds)
        parts = [*self.counts.values(), *(f"{number} {name}" for name, number in speeds.items())]
        return ", ".join(parts) or "nothing moved"

    @property
    def counts(self) -> dict[str, str]:
        """How many outcomes there are of each kind that there is, in words."""
        return {kind: _counted(number, kind) for kind, number in Counter(outcome.kind for outcome in self.outcomes).items()}

    @property
    def _moved(self) -> list[SpeedChange]:
        return [change for change in self.speeds if change.verdict in ("slower", "faster")]

    def _same_host(self, change: SpeedChange) -> bool:
        return self.base.hosts(change.key) == self.run.hosts(change.key)


@lru_cache(maxsize=4)  # the sections of a page, its files and the exit code: one comparison
def since(frame: Frame) -> Diff | None:
    """A frame against the one of its earlier runs that it is compared with, None where it has none."""
    base = base_of(frame)
    return None if base is None else compare(base, frame)


def compare(base: Frame, run: Frame, margin: float = MARGIN, gate_speed: bool = False) -> Diff:
    """What is different in `run`. `gate_speed`: every slower speed gates."""
    around = surroundings(base, run)
    before, after = by_key(base, run)
    moved, speeds = outcomes(before, after), speed_changes(before, after, margin)
    same = not any(each.moves_speed for each in around)
    gating = [change for change in speeds if change.verdict == "slower" and (gate_speed or (same and change.recurs))]
    void = [outcome for outcome in moved if outcome.after == Status.VOID]
    pairs = pair_changes(*([pair for each in side.runs for pair in each.pairs] for side in (base, run)))
    sides = (Side(base, before), Side(run, after))
    return Diff(*sides, tuple(around), tuple(moved), tuple(speeds), tuple(pairs), tuple(void), tuple(gating))


def _counted(number: int, kind: str) -> str:
    return f"{number} {kind}s" if kind == "new failure" and number != 1 else f"{number} {kind}"
