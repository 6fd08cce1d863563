"""One verdict per frame: a colour, an exit code, a sentence and the counts behind them.

Exit codes: 0 fine; 1 something fails that was not expected to (FAIL, CRASHED, TIMEOUT, or VOID: the timed object did not conform), a known
failure is stale, or a subject does not conform to the profile asked for, if only for a gap that it declares: conformance was the question;
3 the run required a device and a backend was emulated or unavailable; 4 incomplete. 2 (usage) ends a run before there are records.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_harness.records.expected import stale_notes, unasked_notes
from moe_harness.records.frame import Frame, Run
from moe_harness.records.status import FAILING, SKIPPED, STATUSES, Status
from moe_harness.report.compilation import host_notes
from moe_harness.report.grades import grade_notes
from moe_harness.report.pairs import PAIRED, pair_of
from moe_harness.report.profile import Conformance, conformances
from moe_harness.report.text import counted

MEANINGS = {
    0: "nothing fails that was not expected to",
    1: "something fails that was not expected to",
    3: "a required device is missing",
    4: "the run is incomplete",
}
INTERRUPTED = frozenset({2, 3, 4})  # pytest: interrupted, internal error (or, by us, a required device missing), usage error


@dataclass(frozen=True)
class Verdict:
    """`colour`: green | amber | red. `counts` maps labels ("passed", "failed", ...) to numbers of rows and sums to all rows. `notes`: what
    the counts do not tell, such as a killed run or a backend that shows little."""

    code: int
    colour: str
    word: str
    sentence: str
    counts: dict[str, int]
    notes: tuple[str, ...]
    conformances: tuple[Conformance, ...] = ()

    @property
    def meaning(self) -> str:
        return MEANINGS[self.code]


def exit_code(frame: Frame) -> int:
    """The exit code of the frame's runs together. A failure is a fact, so it outranks what was not judged; conformance is judged last,
    since what did not run may still conform."""
    if frame.rows["status"].isin(FAILING).any() or any(stale_notes(run) for run in frame.runs):
        return 1
    if any(_lacks_device(frame, run) for run in frame.runs):
        return 3
    if _incomplete(frame):
        return 4
    return 0 if all(found.conforms for found in conformances(frame)) else 1


def verdict(frame: Frame) -> Verdict:
    """The verdict of the frame's runs together."""
    code, counts = exit_code(frame), count(frame)
    of_runs = (note for run in frame.runs for note in [*run_notes(frame, run), *stale_notes(run), *unasked_notes(run)])
    notes = (*of_runs, *host_notes(frame), *grade_notes(frame))
    return Verdict(code, _colour(code, counts), _word(code, counts), _sentence(code, counts), counts, notes, conformances(frame))


def count(frame: Frame) -> dict[str, int]:
    """Rows by outcome. "passed" counts checks, "measured" speeds that conform, PAIRED what was timed in turn; "failed" counts all kinds."""
    status, kind = frame.rows["status"], frame.rows["kind"]
    counts = {
        "passed": int(((status == Status.PASS) & (kind == "check")).sum()),
        "failed": int(status.isin([name for name in FAILING if name != Status.VOID]).sum()),
        "inconclusive": int((status == Status.INCONCLUSIVE).sum()),
        "void": int((status == Status.VOID).sum()),
        "not run": int((status == Status.NOT_RUN).sum()),
        "known": int((status == Status.KNOWN).sum()),
        **{name.lower(): int((status == name).sum()) for name in SKIPPED},
        "measured": int(((status == Status.PASS) & (kind == "bench")).sum()),
        **_paired(frame),
    }
    assert sum(counts.values()) == len(frame.rows), f"a status outside {', '.join(STATUSES)}"
    return counts


def _paired(frame: Frame) -> dict[str, int]:
    """Pairs by what came of them, where there are any."""
    pairs = [pair_of(row).verdict for row in frame.of("pair", Status.PASS)]
    return {name: pairs.count(name) for name in PAIRED} if pairs else {}


def _lacks_device(frame: Frame, run: Run) -> bool:
    """`--require device`: an emulated or unavailable backend is no device."""
    rows = frame.rows[frame.rows["run"] == run.run_id]
    lacking = (rows["status"] == Status.UNAVAILABLE) | (rows["execution"] == "emulated")
    return run.requested.get("require") == "device" and bool(lacking.any())


def _incomplete(frame: Frame) -> bool:
    return bool((frame.rows["status"] == Status.NOT_RUN).any()) or any(_unfinished(frame, run) for run in frame.runs)


def _unfinished(frame: Frame, run: Run) -> str | None:
    """Why a run's records cannot be all there is to know, or None. pytest's exit status 1: tests failed; 5: nothing was collected."""
    rows = frame.rows[frame.rows["run"] == run.run_id]
    if not run.ended:
        return "was killed or is not over: no end record" + (f" in {', '.join(run.open)}" if run.open else "")
    interrupted = sorted(INTERRUPTED & set(run.exit_statuses) - ({3} if _lacks_device(frame, run) else set()))
    if interrupted:
        return f"was interrupted (pytest exit status {interrupted[0]})"
    if rows.empty:
        return "judged nothing"
    if 1 in run.exit_statuses and rows["status"].isin([Status.PASS, *SKIPPED]).all():
        return "ended with failed tests that left no failing record"
    return None


def run_notes(frame: Frame, run: Run) -> list[str]:
    """What makes one run's records less than the whole."""
    name = f"Run {run.run_id}"
    notes = [f"{name}: {shard} ends in a truncated line" for shard in run.truncated]
    reason = _unfinished(frame, run)
    return ([f"{name} {reason}"] if reason else []) + notes


def _colour(code: int, counts: dict[str, int]) -> str:
    if code in (1, 3):
        return "red"
    judged = sum(counts.get(name, 0) for name in ("passed", "measured", "known", *PAIRED))
    return "amber" if code or counts["inconclusive"] or not judged else "green"


def _word(code: int, counts: dict[str, int]) -> str:
    if code:
        return {1: "FAIL", 3: "DEVICE MISSING", 4: "INCOMPLETE"}[code]
    if counts["inconclusive"]:
        return "INCONCLUSIVE"
    return "PASS" if _colour(code, counts) == "green" else "NOTHING JUDGED"


def _sentence(code: int, counts: dict[str, int]) -> str:
    judged = sum(counts[name] for name in ("passed", "failed", "inconclusive", "known"))
    parts = []
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    if counts["void"]:
        parts.append(f"{counted(counts['void'], 'speed')} void")
    if counts["not run"]:
        parts.append(f"{counts['not run']} not run")
    if counts["inconclusive"]:
        parts.append(f"{counts['inconclusive']} inconclusive")
    passed = f"{counts['passed']} of {counted(judged, 'check')} passed" if judged else "no check was judged"
    speeds = [f"{counted(counts['measured'], 'speed')} measured"] if counts["measured"] and not parts else []
    slower = [f"{counts['slower']} slower"] if counts.get("slower") else []
    return ", ".join([*parts, passed, *speeds, *slower])
