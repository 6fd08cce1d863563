"""Synthetic runs for the tests of records and report: realistic numbers, every status, nothing measured."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moe_harness.records.record import Recorder

CHECKS = {
    "ROUTE-01": "selection agrees but for certified near-ties",
    "ROUTE-02": "weights are normalised as the family says",
    "ROUTE-03": "selection survives all-negative logits",
    "ROUTE-04": "exact ties go to the lower expert",
    "ROUTE-05": "expert counts are unbiased",
    "ROUTE-06": "scores are computed in the declared dtype",
    "ROUTE-07": "a shifted router changes nothing",
    "ROUTE-08": "expert order is a relabelling",
    "BLOCK-01": "pinned block output, per expert",
    "BLOCK-02": "one token through each expert",
    "BLOCK-03": "an empty batch returns an empty batch",
    "BLOCK-04": "a skewed load drops nothing",
    "BLOCK-05": "neighbour content is bit-exact",
    "PARITY-01": "pinned logits, all positions",
    "PARITY-02": "layer-forced blocks",
    "PARITY-03": "free-running perplexity",
    "PARITY-04": "held-out bits per byte",
    "CACHE-01": "decode equals prefill",
    "CACHE-02": "chunked prefill equals one prefill",
    "CACHE-03": "reset is bit-equal to load",
    "CACHE-04": "two sequences do not mix",
    "PAD-01": "right padding changes nothing",
    "PAD-02": "left padding changes nothing",
    "PAD-03": "pads take no expert's capacity",
    "WINDOW-01": "a window hides what lies before it",
    "WINDOW-02": "the cache outlives the window",
    "CONV-01": "HF to native and back, bit-exact",
    "CONV-02": "an unknown tensor is an error",
    "CONV-03": "tied embeddings are kept",
    "CONV-04": "a truncated file names its tensor",
    "GEN-01": "greedy generation is repeatable",
    "GEN-02": "a row that ends leaves the others alone",
}
BACKENDS = {"hf": "cpu", "hf:grouped_mm": "cpu", "native": "cpu", "te": "emulated"}
CASES = ("mixtral", "qwen3_moe")
DTYPES = ("float32", "bfloat16")
BOUNDS = {"float32": 4.1e-6, "bfloat16": 7.3e-3}
ENVIRONMENT: dict[str, Any] = {
    "hostname": "bench-01", "os": "Linux 6.8.0 x86_64", "python": "3.11.9", "cpu": "AMD EPYC 9654", "cores": 16, "threads": 16,
    "memory_gib": 125.6, "accelerators": [], "packages": {"moe-harness": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0+cpu",
    "transformers": "5.23.0", "pytest": "9.2.0"}, "commit": "d876d2164bd08e8e1cd5a1d3d3b5e1bb5b9b3b77", "dirty": False,
}  # fmt: skip


def check(name: str, backend: str, case: str, dtype: str, **fields: Any) -> dict[str, Any]:
    """A passing check record; `fields` replace what differs."""
    seed = random.Random(f"{name} {backend} {case} {dtype}")
    bound = BOUNDS[dtype]
    metrics = [{"name": "nmse", "value": bound * 10 ** seed.uniform(-2.2, -0.15), "bound": bound, "kind": "judged"}]
    if name.startswith(("PARITY", "ROUTE")):
        metrics.append({"name": "max_kl", "value": bound * 10 ** seed.uniform(-2.5, -0.4), "bound": 2 * bound, "kind": "judged"})
        metrics.append({"name": "flip_rate", "value": seed.uniform(0, 0.01), "bound": None, "kind": "reported"})
    test = f"test_{name.split('-')[0].lower()}.py::test_{name.lower().replace('-', '_')}"
    record = {
        "node": f"harness/checks/{test}[{backend}-{case}-{dtype}]", "check": name, "title": CHECKS.get(name, ""), "backend": backend,
        "execution": BACKENDS.get(backend, "device"), "execution_note": "", "case": case, "dtype": dtype, "status": "PASS", "reason": "",
        "metrics": metrics, "duration_s": round(seed.uniform(0.02, 2.4), 3),
        "evidence": {"tokens": 4096, "experts_hit": 8 if case == "mixtral" else 32, "flips_excused": seed.randrange(9),
                     "smallest_visible": bound * 0.4},
        "reproduce": f"moe-harness run --backend {backend} --dtype {dtype} -k '{test.split('::')[1]} and {case}'",
    }  # fmt: skip
    return record | fields


def bench(workload: str, backend: str, case: str, dtype: str, seconds: float, **fields: Any) -> dict[str, Any]:
    """A conforming benchmark record of 30 rounds around `seconds`."""
    seed = random.Random(f"{workload} {backend} {case} {dtype}")
    parameters = {"prefill": {"batch": 4, "sequence": 512}, "decode": {"batch": 8, "context": 512}, "moe_block": {"tokens": 1024}}[workload]
    tokens = {"prefill": 2048, "decode": 8, "moe_block": 1024}[workload]
    gate = [{"name": "pinned_nmse", "value": BOUNDS[dtype] * 0.2, "bound": BOUNDS[dtype], "kind": "judged"}]
    record = {
        "node": f"harness/bench/test_{workload}.py::test_{workload}[{backend}-{case}-{dtype}]", "workload": workload, "backend": backend,
        "execution": BACKENDS.get(backend, "device"), "execution_note": "", "case": case, "dtype": dtype, "parameters": parameters,
        "status": "PASS", "reason": "", "unit": "s", "samples": [seconds * seed.lognormvariate(0, 0.02) for _ in range(30)],
        "tokens": tokens, "gate": gate,
        "reproduce": f"moe-harness bench --backend {backend} --dtype {dtype} -k 'test_{workload} and {case}'",
    }  # fmt: skip
    return record | fields


def checks(backends: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """Every check on every backend, case and dtype; `te` has no chunked prefill and no conversion of tied embeddings."""
    for name in CHECKS:
        for backend in backends or BACKENDS:
            for case in CASES:
                for dtype in DTYPES:
                    yield check(name, backend, case, dtype, **_gap(name, backend))


def _gap(name: str, backend: str) -> dict[str, Any]:
    if backend == "te" and name in ("CACHE-02", "PAD-02"):
        return {"status": "UNSUPPORTED", "reason": "no chunked prefill: the cache holds one prefill", "metrics": [], "evidence": {}}
    if backend == "neuron":
        return {"status": "UNAVAILABLE", "reason": "torch_neuronx is not installed", "execution": "", "metrics": [], "evidence": {}}
    return {}


def benches() -> Iterator[dict[str, Any]]:
    """Three workloads; `native` is slower in prefill, faster in decode."""
    pace = {"hf": 1.0, "hf:grouped_mm": 0.83, "native": 0.91, "te": 14.0}
    for workload, seconds in (("prefill", 0.412), ("decode", 0.0187), ("moe_block", 0.0061)):
        for backend, factor in pace.items():
            faster = 0.8 if (backend, workload) == ("native", "decode") else 1.0
            yield bench(workload, backend, "mixtral", "bfloat16", seconds * factor * faster)


def write_run(directory: Path, records: list[dict[str, Any]], *, planned: list[dict[str, Any]] | None = None, end: int | None = 0,
              environment: dict[str, Any] | None = None, requested: dict[str, Any] | None = None) -> Path:  # fmt: skip
    """A run directory: run, the plan twice (two workers repeat it), `records`, and `end` with that exit status unless None."""
    command = ["moe-harness", "run", "--bench"]
    asked = {"backends": list(BACKENDS), "dtypes": list(DTYPES), "checkpoints": []} | (requested or {})
    items = [plan_item(record) for record in planned or records if "backend" in record]
    with Recorder(directory) as recorder:
        recorder.write("run", run_id=directory.name, command=command, environment=ENVIRONMENT | (environment or {}), requested=asked)
        recorder.write("plan", items=items)
        recorder.write("plan", items=items)
        for record in records:
            recorder.write(kind_of(record), **record)
        if end is not None:
            recorder.write("end", exit_status=end, duration_s=184.2)
    return directory


def kind_of(record: dict[str, Any]) -> str:
    """The type of a record's fields."""
    return next(
        kind
        for kind, field in (("pair", "a"), ("bench", "workload"), ("check", "check"), ("timing_selftest", "figures"))
        if field in record
    )


def plan_item(record: dict[str, Any]) -> dict[str, Any]:
    """What a plan says of a record."""
    item = {name: record[name] for name in ("node", "backend", "case", "dtype")}
    return item | {"check": record.get("check") or f"BENCH-{record['workload']}", "title": record.get("title", "")}


def green(root: Path) -> Path:
    """All pass or are declared gaps."""
    neuron = [check(name, "neuron", "mixtral", "bfloat16", **_gap(name, "neuron")) for name in CHECKS]
    return write_run(root / "20260301T020000.000000Z-0a1b", [*checks(), *neuron, *benches()])


def red(root: Path) -> Path:
    """Three bugs of `native`, one crash and one timeout of `te`, a known failure, an inconclusive check, a void speed."""
    records = [*checks(), *benches()]
    for name, backend, case, dtype, fields in _failures():
        index = next(i for i, r in enumerate(records) if _is(r, name, backend, case, dtype))
        records[index] |= fields
    return write_run(root / "20260302T020000.000000Z-1c2d", records, end=1)


def _is(record: dict[str, Any], name: str, backend: str, case: str, dtype: str) -> bool:
    place = (record["backend"], record["case"], record["dtype"]) == (backend, case, dtype)
    return place and name in (record.get("check"), record.get("workload"))


def _failures() -> Iterator[tuple[str, str, str, str, dict[str, Any]]]:
    for dtype in DTYPES:
        metrics = [{"name": "weight_error", "value": 0.412, "bound": BOUNDS[dtype], "kind": "judged"}]
        reason = "layer 2: weights of the 4 selected experts sum to 0.588, expected 1 (norm_topk_prob is true)"
        yield "ROUTE-02", "native", "qwen3_moe", dtype, {"status": "FAIL", "reason": reason, "metrics": metrics}
    metrics = [{"name": "pinned_nmse", "value": 0.0312, "bound": 7.3e-3, "kind": "judged"}]
    reason = "position 129 on: the error grows from 1e-4 to 3e-2 where the window slides"
    yield "PARITY-01", "native", "mixtral", "bfloat16", {"status": "FAIL", "reason": reason, "metrics": metrics}
    yield "BLOCK-03", "te", "mixtral", "bfloat16", {"status": "CRASHED", "reason": "worker died of signal 11 (SIGSEGV)", "metrics": []}
    yield "GEN-01", "te", "qwen3_moe", "bfloat16", {"status": "TIMEOUT", "reason": "no reply in 60 s", "metrics": []}
    yield "CACHE-04", "te", "mixtral", "float32", {"status": "KNOWN", "reason": "cache reorder is broken upstream", "metrics": []}
    reason = "2 of 32 experts hit: an error in the others would not have been seen"
    yield "ROUTE-05", "hf", "qwen3_moe", "bfloat16", {"status": "INCONCLUSIVE", "reason": reason}
    reason = "gate failed on the timed object: pinned_nmse 0.0312 > 0.0073"
    gate = [{"name": "pinned_nmse", "value": 0.0312, "bound": 7.3e-3, "kind": "judged"}]
    yield "prefill", "native", "mixtral", "bfloat16", {"status": "VOID", "reason": reason, "gate": gate}


def incomplete(root: Path) -> Path:
    """A run killed in its middle, the last line cut off; every record it has passes."""
    records = [*checks(), *benches()]
    directory = write_run(root / "20260303T020000.000000Z-2e3f", records[:300], planned=records, end=None)
    shard = next(directory.glob("records-*.jsonl"))
    shard.write_bytes(shard.read_bytes()[:-40])
    return directory


def void(root: Path) -> Path:
    """Checks pass; one timed object failed its gate and another one recorded none."""
    records = [*checks({"hf": "cpu", "native": "cpu"}), *benches()]
    gated = next(record for record in records if _is(record, "prefill", "native", "mixtral", "bfloat16"))
    gate = [{"name": "pinned_nmse", "value": 0.0312, "bound": 7.3e-3, "kind": "judged"}]
    gated |= {"status": "VOID", "reason": "gate failed on the timed object: pinned_nmse 0.0312 > 0.0073", "gate": gate}
    next(record for record in records if _is(record, "decode", "te", "mixtral", "bfloat16"))["gate"] = []
    return write_run(root / "20260304T020000.000000Z-3a4b", records[:-3], planned=records, end=1)
