"""How far the harness itself was measured, in a sentence beside the verdict: what its checks kill, how often they alarm, what they see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from harness.report.frame import Frame
from harness.report.text import number

UNMEASURED = "This harness has not been measured: no self-test is recorded"
OF_ANOTHER = "Figures of another version of the harness"


def trust(frame: Frame) -> list[str]:
    """One sentence for each self-test that the frame's runs name; runs of before there were self-tests say nothing."""
    return list(dict.fromkeys(_sentence(run.selftest) for run in frame.runs if run.selftest is not None))


def _sentence(record: Mapping[str, Any]) -> str:
    found = record["figures"]
    if not found:
        return UNMEASURED
    head = "The harness measured" if record["current"] else OF_ANOTHER
    about = f"{head} ({found['mode']} self-test of {str(found['date'])[:10]})"
    return f"{about}: {'; '.join(_parts(found))}"


def _parts(found: Mapping[str, Any]) -> Iterator[str]:
    faults, corpus, honest = found["faults"], found["corpus"], found["honest"]
    yield f"{faults['killed']} of {faults['expressed']} wrong implementations die"
    yield f"of {corpus['total']} public bugs {corpus['expressed']} are re-created and {corpus['killed']} die"
    rate = f"fewer than {number(100 * honest['rate_below'], 2)} % do, with {number(100 * honest['confidence'])} % confidence"
    yield f"{honest['alarms']} of {honest['runs']} runs on honest ones alarm ({rate})"
    if found.get("diagnosis"):
        yield f"of those that die, the diagnosis names the bug or its operator for {_shares(found['diagnosis'])}"
    if found["effects"]:
        yield f"the smallest errors seen: {', '.join(_effects(found['effects']))}"


def _shares(by_dtype: Mapping[str, Any]) -> str:
    return " and ".join(f"{100 * counts['placed'] / counts['killed']:.0f} % in {dtype}" for dtype, counts in by_dtype.items())


def _effects(effects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each error once, with its size in every dtype."""
    for what, sizes in groupby(effects, key=lambda effect: effect["what"]):
        yield f"{what}, " + " and ".join(f"{effect['says']} in {effect['dtype']}" for effect in sizes)
