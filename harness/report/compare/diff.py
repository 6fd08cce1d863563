"""Two runs compared: what changed around them first, then statuses, then speeds; and whether that is reason for alarm.

Exit codes: 1 a new failure, or a check that vanished; or a speed that gates; 4 nothing of the kind, but something that the base had judged
was planned and not run; 0 else. A slower speed gates where the caller insists, and where it recurs (at least two runs show it) on the very
same machine and versions: samples of two runs are not pairs, and two runs of the same build differ by more than 5 % in one of nine
comparisons on a busy machine.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from moe_harness.report.compare.evidence import Evidence
from moe_harness.report.compare.identity import by_key
from moe_harness.report.compare.outcomes import Outcome, outcomes
from moe_harness.report.compare.pairs import PairChange, pair_changes
from moe_harness.report.compare.speeds import MARGIN, SpeedChange, speed_changes
from moe_harness.report.compare.surroundings import Surrounding, surroundings


@dataclass(frozen=True)
class Diff:
    """`base`, `run`: ids of the runs on each side. `gating`: the slower speeds that make the exit code 1."""

    base: tuple[str, ...]
    run: tuple[str, ...]
    surroundings: tuple[Surrounding, ...]
    outcomes: tuple[Outcome, ...]
    speeds: tuple[SpeedChange, ...]
    pairs: tuple[PairChange, ...]
    void: tuple[Outcome, ...]
    gating: tuple[SpeedChange, ...]

    def of(self, *kinds: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.kind in kinds]

    @property
    def code(self) -> int:
        if self.of("new failure", "vanished") or self.gating:
            return 1
        return 4 if self.of("not run") else 0

    @property
    def sentence(self) -> str:
        """The counts of all that moved, or that nothing did."""
        counts = Counter(outcome.kind for outcome in self.outcomes)
        speeds = Counter(change.verdict for change in self.speeds)
        parts = [_counted(number, kind) for kind, number in counts.items()]
        parts += [f"{number} {name}" for name, number in speeds.items()]
        return ", ".join(parts) or "nothing moved"


def compare(base: Evidence, run: Evidence, margin: float = MARGIN, gate_speed: bool = False) -> Diff:
    """What is different in `run`. `gate_speed`: every slower speed gates."""
    around = surroundings(base.frame, run.frame)
    before, after = by_key(base.frame, run.frame)
    moved, speeds = outcomes(before, after), speed_changes(before, after, margin)
    same = not any(each.moves_speed for each in around)
    gating = [change for change in speeds if change.verdict == "slower" and (gate_speed or (same and change.recurs))]
    void = [outcome for outcome in moved if outcome.after == "VOID"]
    pairs = pair_changes(base.pairs, run.pairs)
    return Diff(_ids(base), _ids(run), tuple(around), tuple(moved), tuple(speeds), tuple(pairs), tuple(void), tuple(gating))


def _ids(side: Evidence) -> tuple[str, ...]:
    return tuple(run.run_id for run in side.frame.runs)


def _counted(number: int, kind: str) -> str:
    return f"{number} {kind}s" if kind == "new failure" and number != 1 else f"{number} {kind}"
