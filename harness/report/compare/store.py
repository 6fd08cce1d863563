"""A line per run, derived from its records: what a history of hundreds needs, and what stays when records are pruned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from moe_harness.records.frame import Frame, load_frame
from moe_harness.records.record import RecordError
from moe_harness.records.shard import shards
from moe_harness.records.whole import replace
from moe_harness.report.compare.baseline import asked, candidates
from moe_harness.report.compare.identity import hardware, key
from moe_harness.report.speed import speeds
from moe_harness.report.verdict import verdict

FILE, SCHEMA = ".series.jsonl", 1  # hidden, so that reports/runs/* are runs
Entry = dict[str, Any]


def update(history: Path) -> list[Entry]:
    """All runs of a history, oldest first, those whose records are gone included. Reads only what is new or has changed, and writes
    `.series.jsonl` there. Raises FileNotFoundError where there is no such directory, RecordError for a store that is none."""
    if not history.is_dir():
        raise FileNotFoundError(f"{history}: no such directory of runs")
    known = _read(history / FILE)
    entries = dict(known)
    for directory in candidates(history):
        if known.get(directory.name, {}).get("digest") != _digest(directory):
            entries[directory.name] = entry(directory)
    if entries != known:
        _write(history / FILE, entries)
    return [entries[name] for name in sorted(entries)]


def entry(directory: Path) -> Entry:
    """What one run adds to its history. `code` None where its records cannot be read."""
    head: Entry = {"schema": SCHEMA, "run": directory.name, "digest": _digest(directory)}
    try:
        frame = load_frame([directory])
    except RecordError as error:
        return head | {"code": None, "word": "UNREADABLE", "reason": str(error), "metrics": {}}
    run, found = frame.runs[0], verdict(frame)
    profiles, backends, selection = asked(frame.runs, frame)
    about = {"started": run.started, "machine": run.machine, "hardware": hardware(run), "commit": run.environment.get("commit")}
    about |= {"profiles": profiles, "backends": backends, "selection": selection, "code": found.code, "word": found.word}
    return head | about | {"counts": found.counts, "metrics": metrics(frame)}


def metrics(frame: Frame) -> dict[str, float]:
    """Name -> value: seconds per round of every conforming speed, and of every check the worst error over its bound."""
    places = {run.run_id: hardware(run) for run in frame.runs}
    found = {f"seconds | {key(s.row)} | {s.row['parameters']} | {places[s.row['run']]}": s.median for s in speeds(frame)}
    worst: dict[str, float] = {}
    for row in frame.of("check"):
        name = f"error over bound | {row['check']} {row['backend']} {row['dtype']}"
        if row["ratio"] is not None and row["bound"]:
            worst[name] = max(worst.get(name, 0.0), row["ratio"])
    return {name: _short(value) for name, value in {**found, **worst}.items() if value is not None}


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _digest(directory: Path) -> str:
    """Of names, sizes and times: a run that goes on is read again."""
    facts = [(shard.name, shard.path.stat().st_size, shard.path.stat().st_mtime_ns) for shard in shards(directory)]
    return sha256(repr(facts).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Entry]:
    if not path.exists():
        return {}
    try:
        entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return {str(found["run"]): found for found in entries if found["schema"] == SCHEMA}
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: not a series store ({error}); delete it, it is derived from the runs") from error


def _write(path: Path, entries: Mapping[str, Entry]) -> None:
    replace(path, "".join(json.dumps(entries[name], sort_keys=True) + "\n" for name in sorted(entries)))
