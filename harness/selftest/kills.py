"""Which wrong implementation dies by which check."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from moe_harness.cases.cases import named_cases
from moe_harness.checks.in_process import Check, checks_of, suite
from moe_harness.mutants.catalogue import FAULTS
from moe_harness.mutants.entry import Fault
from moe_harness.records.status import FAILING, Status
from moe_harness.selftest.trial import Ending, Trial

DTYPES = ("float32", "bfloat16")
GRAVITY = (
    Status.FAIL,
    Status.CRASHED,
    Status.TIMEOUT,
    Status.UNAVAILABLE,
    Status.INCONCLUSIVE,
    Status.UNSUPPORTED,
    Status.PASS,
)  # of several endings the first counts


@dataclass
class Fate:
    """What became of one fault. `endings`: (clause, dtype) -> (status, reason), the gravest over families and parameters."""

    fault: Fault
    endings: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def add(self, dtype: str, endings: Iterable[Ending]) -> None:
        for ending in endings:
            key = ending.clause, dtype
            kept = self.endings.get(key)
            if kept is None or GRAVITY.index(ending.status) < GRAVITY.index(kept[0]):
                self.endings[key] = ending.status, ending.reason

    def killers(self, dtype: str | None = None) -> dict[str, str]:
        """Clause -> status of those that it dies by, in one dtype or in any."""
        return {clause: status for (clause, of), (status, _) in self.endings.items() if status in FAILING and dtype in (None, of)}

    @property
    def by_crash_alone(self) -> bool:
        """It dies, but of no judgement."""
        found = self.killers().values()
        return bool(found) and Status.FAIL not in found

    @property
    def escaped(self) -> list[str]:
        """Clauses named for it that it survives in every dtype where it was asked."""
        return sorted(set(self.fault.dies_by) - self.killers().keys())

    @property
    def excuse(self) -> str:
        """Why it survived, in the words of the checks."""
        if not self.endings:
            return "no check is named for it" if not self.fault.dies_by else "no check was asked of it"
        return "; ".join(f"{clause} {dtype}: {status} {reason}".strip() for (clause, dtype), (status, reason) in self.endings.items())


def aimed(fault: Fault) -> Iterator[Trial]:
    """The checks named for the fault, on the first family where it shows, in float32 and in bfloat16 where it is visible there."""
    yield from _trials(fault, fault.families[:1], checks_of(fault.dies_by))


def everything(fault: Fault) -> Iterator[Trial]:
    """Every check, on the same family."""
    yield from _trials(fault, fault.families[:1], suite())


def _trials(fault: Fault, families: Sequence[str], checks: Sequence[Check]) -> Iterator[Trial]:
    for family in families:
        for dtype in [dtype for dtype in DTYPES if dtype in fault.dtypes] or fault.dtypes[:1]:
            if names := tuple(check.name for check in checks if check.asks(named_cases()[family], dtype)):
                yield Trial(fault.id, family, dtype, names)


def quick_trials() -> list[Trial]:
    return [trial for fault in FAULTS for trial in aimed(fault)]


def long_trials() -> list[Trial]:
    return [trial for fault in FAULTS for trial in everything(fault)]


def controls(trials: Iterable[Trial]) -> list[Trial]:
    """The same checks asked of the honest subject: one that it fails kills nothing."""
    asked: dict[tuple[str, str], set[str]] = {}
    for trial in trials:
        asked.setdefault((trial.case, trial.dtype), set()).update(trial.checks)
    return [Trial("", case, dtype, tuple(sorted(names))) for (case, dtype), names in asked.items()]


def fates(trials: Sequence[Trial], endings: Sequence[Sequence[Ending]]) -> list[Fate]:
    """One per fault of the catalogue, whether it was tried or not. What fails in a trial of `controls` does not count."""
    tried = list(zip(trials, endings, strict=True))
    broken = {(trial.case, trial.dtype, ending.check) for trial, ended in tried if not trial.subject for ending in ended if ending.failed}
    found = {fault.id: Fate(fault) for fault in FAULTS}
    for trial, ended in tried:
        if trial.subject:
            counted = (ending for ending in ended if (trial.case, trial.dtype, ending.check) not in broken)
            found[trial.subject].add(trial.dtype, counted)
    return list(found.values())
