"""Synthetic records of speeds: with limits, canaries, skewed loads and pairs. Nothing measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moe_harness.tests.report_samples import CHECKS, bench, check, write_run

LOADS = {"balanced": [256] * 8, "zipf": [753, 377, 251, 188, 151, 126, 108, 94], "hot-expert": [1024, *[147] * 5, 146, 143]}
PACE = {"balanced": 1.0, "zipf": 1.12, "hot-expert": 1.35}


def measured(workload: str, backend: str, seconds: float, **fields: Any) -> dict[str, Any]:
    """A benchmark record with everything that a record can hold."""
    about = {
        "first_call_s": 9 * seconds, "warmup": 4, "canary": {"before": 0.0101, "after": 0.0102, "reference": 0.01, "disturbed": False},
        "gate_after": [{"name": "pinned_nmse", "value": 0.001, "bound": 7.3e-3, "kind": "judged"}],
        "work": {"flops": 10**11, "bytes": 7 * 10**8, "experts_touched": 8, "loads": [LOADS["balanced"]]},
        "limit": {"flops_per_s": 1e12, "bytes_per_s": 2e10, "seconds": 0.4 * seconds, "share": 0.4, "by": "bandwidth"},
        "percentiles": {"p50": {"value": seconds}, "p99": {"reason": "p99 needs 299 rounds, there are 30"}},
        "memory": {"host_peak_bytes": 3 * 2**30, "device_peak_bytes": None},
    }  # fmt: skip
    return bench(workload, backend, "mixtral", "bfloat16", seconds, **(about | fields))


def skewed(backend: str, skew: str, seconds: float) -> dict[str, Any]:
    """One block under one skew; `node` of its own."""
    work = {"flops": 10**9, "bytes": 10**8, "experts_touched": 8, "loads": [LOADS[skew]]}
    node = f"test_moe_block.py::test_skew[{backend}-{skew}]"
    return bench("moe_block", backend, "mixtral", "bfloat16", seconds, node=node, parameters={"tokens": 1024, "routing": skew}, work=work)


def pair(verdict: str, ratio: float, half: float = 0.01, **fields: Any) -> dict[str, Any]:
    """`native` against `hf:grouped_mm`, timed in turn."""
    record = {
        "node": f"test_decode.py::test_decode[pair-{verdict}]", "workload": "decode", "case": "mixtral", "dtype": "bfloat16",
        "parameters": {"batch": 8, "context": 512}, "a": "hf:grouped_mm", "b": "native", "samples_a": [[0.0155] * 6] * 8,
        "samples_b": [[0.0155 * ratio] * 6] * 8, "ratio": ratio, "low": ratio - half, "high": ratio + half, "confidence": 0.95,
        "delta": 0.02, "mde": 0.018, "verdict": verdict, "disturbed": [], "status": "PASS", "reason": "",
        "reproduce": "moe-harness bench --pair hf:grouped_mm native -k test_decode",
    }  # fmt: skip
    return record | fields


def pairs() -> Iterator[dict[str, Any]]:
    """Every verdict, and a VOID one."""
    yield pair("slower", 1.083)
    yield pair("equivalent", 1.002, 0.008)
    yield pair("faster", 0.871, workload="prefill", parameters={"batch": 4, "sequence": 512})
    yield pair("inconclusive", 1.03, 0.06, disturbed=[3], workload="moe_block", parameters={"tokens": 1024})
    void = pair("void", 1.0, workload="router", status="VOID", reason="not the same work: 3 of 512 selections differ")
    yield void | {"ratio": None, "low": None, "high": None, "mde": None, "verdict": "inconclusive"}


def full(root: Path, name: str = "20260305T020000.000000Z-5c6d") -> Path:
    """Checks of two backends; speeds, skews and pairs; one disturbed speed; the self-test of timing."""
    rate = {"count": 1, "of": 120, "low": 0.0002, "high": 0.046}
    records = [check(clause, backend, "mixtral", "bfloat16") for clause in CHECKS for backend in ("hf:grouped_mm", "native")]
    records += [measured("prefill", "hf:grouped_mm", 0.41), measured("prefill", "native", 0.46, canary={"disturbed": True})]
    for skew, pace in PACE.items():
        records += [skewed("hf:grouped_mm", skew, 0.006 * pace), skewed("native", skew, 0.0054 * pace**1.5)]
    records += [*pairs(), {"figures": {"false_flags": rate, "seen": rate | {"count": 113}}}]
    return write_run(root / name, records, end=1)
