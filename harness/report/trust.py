"""How far the harness itself was measured, in a line beside the verdict and in whole: what its checks kill, how often they alarm, what
they see; and how much this run looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.report.heatmap import heat_rows
from moe_harness.report.text import grouped, number

UNMEASURED = "This harness has not been measured: no self-test is recorded"
OF_ANOTHER = "Figures of another version of the harness"


def in_short(frame: Frame) -> list[tuple[str, str]]:
    """(figure, what it is of): kills, false alarms, of timing too, tokens, experts."""
    judged = next((run.selftest for run in frame.runs if run.selftest is not None), None)
    timed = next((run.timing_selftest for run in frame.runs if run.timing_selftest is not None), None)
    return [*(_figures(judged) if judged is not None else ()), *(_timing(timed) if timed is not None else ()), *_seen(frame)]


def _figures(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    found = record["figures"]
    if not found:
        yield "not measured:", "no self-test of this harness is recorded"
        return
    faults, honest = found["faults"], found["honest"]
    yield f"{faults['killed']} of {faults['expressed']}", "wrong implementations die"
    yield f"{honest['alarms']} of {honest['runs']}", f"honest runs alarm (under {number(100 * honest['rate_below'], 2)} %)"
    whose = "" if record["current"] else " of another version"
    yield "", f"{found['mode']} self-test{whose}, {str(found['date'])[:10]}"


def _timing(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    found = record["figures"] if isinstance(record["figures"], Mapping) else {}
    for name, of in (("false_flags", "equal timings called different"), ("seen", "timings 5 % slower seen")):
        rate = found.get(name)
        if isinstance(rate, Mapping) and rate.get("of"):
            yield f"{rate['count']} of {rate['of']}", of


def _seen(frame: Frame) -> Iterator[tuple[str, str]]:
    tokens = sum(row["evidence"].get("tokens") or 0 for row in frame.of("check") if _is_count(row["evidence"].get("tokens")))
    experts = sum(len(layer) for row in heat_rows(frame) for layer in row.grids[0].layers)
    if tokens:
        yield grouped(tokens), "tokens judged"
    if experts:
        yield grouped(experts), "experts judged one by one"


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
