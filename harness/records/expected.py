"""Known failures (`--expect FILE`): which entries are stale, and what a KNOWN cell links to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_harness.records.frame import Run


def merged(records: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The entries of a run's `expectations` records, each once; every worker repeats them. An entry that one part covers (checks after
    benchmarks, a second process into the same directory) is not stale."""
    entries: dict[str, Mapping[str, Any]] = {}
    for record in records:
        for entry in record["entries"]:
            kept = entries.get(str(entry["source"]))
            if kept is None or entry["fate"] == "covers" or kept["fate"] == "not asked":
                entries[str(entry["source"])] = entry
    return tuple(entries.values())


def stale_notes(run: Run) -> list[str]:
    """One sentence per stale entry; each is a new failure."""
    return [f"Run {run.run_id}: stale entry: {_place(entry)} is about no check of this run; remove it" for entry in _of(run, "stale")]


def unasked_notes(run: Run) -> list[str]:
    """One sentence about the entries that a selection could not judge."""
    entries = _of(run, "not asked")
    places = ", ".join(_place(entry) for entry in entries)
    return [f"Run {run.run_id}: not asked in this selection: {places}"] if entries else []


def link(expected: Mapping[str, Any]) -> str:
    """The entry's address, if it is one that a page may link to: records are not trusted."""
    url = str(expected.get("url") or "")
    return url if url.startswith(("https://", "http://")) else ""


def _of(run: Run, fate: str) -> list[Mapping[str, Any]]:
    return [entry for entry in run.expectations if entry["fate"] == fate]


def _place(entry: Mapping[str, Any]) -> str:
    return f"{entry['source']} ({entry['check']})"
