"""Records of one or several runs -> one tidy frame: a row per check, benchmark or pair record, and per planned node that has none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from moe_harness.records.clean import clean
from moe_harness.records.expected import merged
from moe_harness.records.metric import finite, judged, metrics_of, worst_metric
from moe_harness.records.raw import RawRun, read_raw
from moe_harness.records.shard import shards
from moe_harness.records.status import Status

Record = Mapping[str, Any]

COLUMNS = (
    "id kind run machine node check topic title backend execution execution_note case dtype status reason metric value bound ratio "
    "metrics evidence maps grade duration_s parameters samples tokens reproduce expected capsule facts"
).split()
FACTS = (
    "first_call_s compilation warmup steady percentiles canary work limit memory a b ratio low high confidence delta mde verdict disturbed"
).split()
KINDS = ("check", "bench", "pair")
_CHECK_ID = re.compile(r"([A-Z][A-Z0-9_]*)-\d+")


@dataclass(frozen=True)
class Run:
    """One run on one machine. `machine` is unique within the frame. A run may have several parts, one shard each. `open`: shards of
    parts that did not end (killed, or not over). `exit_statuses`: of the parts that did. `planned` counts distinct nodes. `truncated`:
    shards whose last line was cut off. `seconds`: from the first record to the last. `expectations`: what became of the entries of
    --expect; `profile`, `selftest`, `timing_selftest`: the records of that type, if there are any; `pairs`: also those without a row."""

    run_id: str
    machine: str
    environment: Mapping[str, Any]
    commands: tuple[tuple[str, ...], ...]
    requested: Mapping[str, Any]
    shards: tuple[str, ...]
    truncated: tuple[str, ...]
    planned: int
    open: tuple[str, ...]
    exit_statuses: tuple[int, ...]
    seconds: float | None
    started: str
    expectations: tuple[Record, ...] = ()
    profile: Record | None = None
    selftest: Record | None = None
    timing_selftest: Record | None = None
    pairs: tuple[Record, ...] = ()

    @property
    def ended(self) -> bool:
        return bool(self.exit_statuses) and not self.open


@dataclass(frozen=True, eq=False)  # a frame is itself, so that what is found out about it can be remembered
class Frame:
    """`rows`: object columns COLUMNS. `id` is unique; `kind` one of KINDS; `topic` the prefix of the check id; `metrics` Metric tuples;
    `metric`, `value`, `bound`, `ratio` its worst judged one (else "", None). A bench or pair row's `check` is its workload, a pair's
    `backend` is b, which is judged against a; `facts`: those of FACTS that the record has. Absent values are None or empty, never NaN.
    `past`: frames of earlier runs, oldest first, to compare with."""

    rows: pd.DataFrame
    runs: tuple[Run, ...]
    past: tuple[Frame, ...] = ()

    def of(self, kind: str, *statuses: str) -> list[dict[str, Any]]:
        """Rows of a kind (with one of the statuses, if any are given) in frame order."""
        return [row for row in self.records() if row["kind"] == kind and (not statuses or row["status"] in statuses)]

    def records(self, run: Run | None = None) -> list[dict[str, Any]]:
        """All rows, or those of one run, as dictionaries in frame order."""
        return [dict(row) for row in self._records if run is None or row["run"] == run.run_id]

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        return [{str(name): value for name, value in row.items()} for row in self.rows.to_dict("records")]


def load_frame(run_directories: Sequence[Path], base: Sequence[Path] = ()) -> Frame:
    """Reads run directories, each once, and merges them. Raises RecordError, and ValueError as `frame_of` does."""
    return frame_of([read_raw(directory) for directory in run_directories], [read_raw(directory) for directory in base])


def frame_of(raw: Sequence[RawRun], base: Sequence[RawRun] = ()) -> Frame:
    """Merges runs that were read; they stay apart by `run` and `machine`. `base`: earlier ones, merged likewise, to compare with. Raises
    ValueError for no run or for the same one given twice (a run compared with itself agrees with itself)."""
    if not raw:
        raise ValueError("no run directory")
    frame = _merged(raw)
    past = (_merged(base),) if base else ()
    once(run.run_id for each in (frame, *past) for run in each.runs)
    return replace(frame, past=past)


def once(run_ids: Iterable[str]) -> None:
    """Raises ValueError naming what occurs twice."""
    ids = list(run_ids)
    if repeated := sorted({run_id for run_id in ids if ids.count(run_id) > 1}):
        raise ValueError(f"run given twice: {', '.join(repeated)}")


def _merged(raw: Sequence[RawRun]) -> Frame:
    """Sorted by time, as runs are named: however they were listed, the same report."""
    raw = [replace(each, records=clean(each.records)) for each in sorted(raw, key=lambda each: (each.directory.name, str(each.directory)))]
    runs = _with_unique_machines([_run(each) for each in raw])
    rows = [_with_capsule(row, each.directory) for run, each in zip(runs, raw, strict=True) for row in _rows(run, each.records)]
    identified = [{"id": str(number), **row} for number, row in enumerate(rows, start=1)]
    return Frame(pd.DataFrame(identified, columns=COLUMNS, dtype=object), runs)


def _with_capsule(row: dict[str, Any], directory: Path) -> dict[str, Any]:
    """`capsule` as a path from where the report is made, "" where the record has none."""
    return row | {"capsule": str(_from_here(directory) / row["capsule"]) if row["capsule"] else ""}


def _from_here(directory: Path) -> Path:
    """However the directory was spelled, one spelling."""
    path = directory.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _run(raw: RawRun) -> Run:
    records, heads = raw.records, [record for record in raw.records if record["type"] == "run"]
    ends = [record for record in records if record["type"] == "end"]
    head: Record = heads[0] if heads else {}
    environment = head.get("environment") or {}
    return Run(
        run_id=clean(raw.run_id),
        machine=str(environment.get("hostname") or "unknown machine"),
        environment=environment,
        commands=tuple(dict.fromkeys(tuple(str(word) for word in each.get("command") or ()) for each in heads)),
        requested=head.get("requested") or {},
        shards=tuple(clean(shard.name) for shard in shards(raw.directory)),
        truncated=tuple(record["shard"] for record in records if record["type"] == "truncated"),
        planned=len(_plan(records)),
        open=tuple(sorted({record["shard"] for record in records if "shard" in record} - _closed(ends))),
        exit_statuses=tuple(end["exit_status"] for end in ends),
        seconds=_seconds(records),
        started=records[0]["time"] if records else "",
        expectations=merged(record for record in records if record["type"] == "expectations"),
        profile=next((record for record in records if record["type"] == "profile"), None),
        selftest=next((record for record in records if record["type"] == "selftest"), None),
        timing_selftest=next((record for record in records if record["type"] == "timing_selftest"), None),
        pairs=tuple(record for record in records if record["type"] == "pair"),
    )


def _closed(ends: Iterable[Record]) -> set[str]:
    """Shards that ended, and those of dead workers for which xdist's controller wrote what they owed."""
    return {shard for end in ends for shard in (end["shard"], *(end.get("lost") or ()))}


def _seconds(records: Sequence[Record]) -> float | None:
    try:
        return (datetime.fromisoformat(records[-1]["time"]) - datetime.fromisoformat(records[0]["time"])).total_seconds()
    except (IndexError, ValueError, TypeError):
        return None


def _with_unique_machines(runs: Sequence[Run]) -> tuple[Run, ...]:
    hosts = [run.machine for run in runs]
    numbered = [f"{host} ({hosts[: i + 1].count(host)})" if hosts.count(host) > 1 else host for i, host in enumerate(hosts)]
    return tuple(replace(run, machine=machine) for run, machine in zip(runs, numbered, strict=True))


def _plan(records: Iterable[Record]) -> dict[str, Record]:
    """Planned items by node: every worker repeats the plan."""
    return {str(item["node"]): item for record in records if record["type"] == "plan" for item in record["items"]}


def _rows(run: Run, records: Sequence[Record]) -> list[dict[str, Any]]:
    rows = _once([_row(run, record) for record in records if record["type"] in KINDS])
    seen = {row["node"] for row in rows}
    titles = {row["check"]: row["title"] for row in rows}
    missing = [_not_run(run, item, titles) for node, item in _plan(records).items() if node not in seen]
    return sorted(rows + missing, key=lambda row: (row["kind"], row["check"], row["backend"], row["case"], row["dtype"], row["node"]))


def _once(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a pair's benchmark says by itself (VOID, no device, or FAIL where slower is one) is not said twice: such a pair is left out, or
    counts as measured where it has an answer."""
    ended = {row["node"]: row["status"] for row in rows if row["kind"] == "bench"}
    twice = [row["kind"] == "pair" and row["status"] != Status.PASS and row["status"] == ended.get(row["node"]) for row in rows]
    kept = [(row, again) for row, again in zip(rows, twice, strict=True) if not again or row["facts"].get("ratio") is not None]
    return [row | {"status": Status.PASS} if again else row for row, again in kept]


def _row(run: Run, record: Record) -> dict[str, Any]:
    metrics = metrics_of(record.get("metrics") or [*(record.get("gate") or ()), *(record.get("gate_after") or ())])
    row = _identity(run, record, str(record.get("check") or record.get("workload")), record["type"])
    row |= {
        name: str(record.get(name) or "")
        for name in ("title", "execution", "execution_note", "grade", "status", "reason", "reproduce", "capsule")
    }
    row |= {name: finite(record.get(name)) for name in ("duration_s", "tokens")}
    samples = tuple(finite(sample) for sample in record.get("samples") or ())
    row |= {"metrics": metrics, "evidence": record.get("evidence") or {}, "samples": samples, "expected": record.get("expected") or {}}
    row |= {"maps": record.get("maps") or {}, "facts": {name: record[name] for name in FACTS if record.get(name) is not None}}
    row["parameters"] = " ".join(f"{name}={value}" for name, value in (record.get("parameters") or {}).items())
    return _gated(row | _worst(metrics))


def _worst(metrics: Sequence[Any]) -> dict[str, Any]:
    worst = worst_metric(metrics)
    if worst is None:
        return {"metric": "", "value": None, "bound": None, "ratio": None}
    return {"metric": worst.name, "value": worst.value, "bound": worst.bound, "ratio": worst.ratio}


def _identity(run: Run, record: Record, check: str, kind: str) -> dict[str, Any]:
    match = _CHECK_ID.match(check)
    row: dict[str, Any] = {"kind": kind, "run": run.run_id, "machine": run.machine, "check": check, "topic": match[1] if match else check}
    names = {name: str(record.get(name) or "") for name in ("node", "backend", "case", "dtype")}
    return row | names | ({"backend": str(record.get("b") or names["backend"])} if kind == "pair" else {})


def _gated(row: dict[str, Any]) -> dict[str, Any]:
    """A speed counts only with a judged gate on the timed object, open before and after, and with times: one without is VOID, whatever
    its record says."""
    if row["kind"] != "bench" or row["status"] != Status.PASS:
        return row
    if not any(judged(metric) for metric in row["metrics"]):
        return row | {"status": Status.VOID, "reason": "no conformance gate was recorded for the timed object"}
    if row["ratio"] is not None and row["ratio"] > 1:
        return row | {"status": Status.VOID, "reason": f"the gate of the timed object is shut: {row['metric']} is over its bound"}
    if not row["samples"] or None in row["samples"]:
        return row | {"status": Status.VOID, "reason": "a time is missing or not a number"}
    return row


def _not_run(run: Run, item: Record, titles: Mapping[str, str]) -> dict[str, Any]:
    check = str(item.get("check") or "").removeprefix("BENCH-")
    kind = "check" if _CHECK_ID.match(check) else "bench"
    row = dict.fromkeys(COLUMNS[1:]) | _identity(run, item, check, kind)
    row |= {"status": Status.NOT_RUN, "title": titles.get(check) or str(item.get("title") or "")}
    row |= dict.fromkeys(("execution", "execution_note", "grade", "metric", "parameters", "reproduce", "capsule"), "")
    reason = "planned, but no record" if run.ended else "planned, but the run was killed or is not over"
    if run.ended and (budget := finite(run.requested.get("budget"))) is not None:
        reason = f"planned, but not started within the budget of {budget:g} s"
    return row | {"reason": reason, "metrics": (), "samples": (), "evidence": {}, "maps": {}, "expected": {}, "facts": {}}
