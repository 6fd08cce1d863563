"""The figures in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(found: Mapping[str, Any], console: Console) -> None:
    faults, corpus, honest = found["faults"], found["corpus"], found["honest"]
    console.print(
        f"{faults['killed']} of {faults['expressed']} wrong implementations die, {len(faults['crashed'])} of them by crashing alone; "
        f"they re-create {corpus['expressed']} of {corpus['total']} public bugs, of which {corpus['killed']} die"
    )
    console.print(_by_topic(faults))
    for line in (*_survivors(faults), *_alarms(honest), *_diagnoses(found["diagnosis"])):
        console.print(line, highlight=False, markup=False)
    console.print(_effects(found["effects"]))


def _by_topic(faults: Mapping[str, Any]) -> Table:
    table = Table("topic", "killed", "expressed")
    for topic, counts in faults["by_topic"].items():
        table.add_row(topic, str(counts["killed"]), str(counts["expressed"]))
    for dtype, counts in faults["by_dtype"].items():
        table.add_row(f"all, where visible in {dtype}", str(counts["killed"]), str(counts["asked"]))
    return table


def _survivors(faults: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"survives: {survivor['fault']}: {survivor['reason']}" for survivor in faults["survivors"])
    yield from (f"survives in {d}: {fault}" for d, counts in faults["by_dtype"].items() for fault in counts["survivors"])
    yield from (f"escapes {', '.join(escape['clauses'])}: {escape['fault']}" for escape in faults["escapes"])


def _alarms(honest: Mapping[str, Any]) -> Iterator[str]:
    most, confidence = 100 * honest["rate_below"], 100 * honest["confidence"]
    yield (
        f"{honest['alarms']} of {honest['runs']} runs on honest implementations of {honest['kinds']} kinds alarm "
        f"({honest['verdicts']} verdicts): fewer than {most:.2g} % do, with {confidence:.0f} % confidence"
    )
    for run in honest["alarmed"]:
        yield f"alarm: {run['kind']} on {run['family']} in {run['dtype']}: {'; '.join(run['alarms'])}"


def _diagnoses(by_dtype: Mapping[str, Any]) -> Iterator[str]:
    for dtype, counts in by_dtype.items():
        yield (
            f"diagnosis in {dtype}: of {counts['killed']} that die {counts['named']} are named, {counts['alone']} of them alone, "
            f"{counts['placed']} named or placed; left out of the catalogue, {counts['rightly_none']} are none of the known"
        )


def _effects(effects: list[Mapping[str, Any]]) -> Table:
    table = Table("smallest error seen in 95 % of seeds", "dtype", "size", "family that sees least")
    for effect in effects:
        table.add_row(effect["what"], effect["dtype"], effect["says"], effect["family"])
    return table
