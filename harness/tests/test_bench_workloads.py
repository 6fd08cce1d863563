"""Workloads as they run: what their records say, what is void, what is a gap, and which set is asked. On golden models, so in seconds."""

from __future__ import annotations

import json
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import pytest

from moe_harness.bench import cold
from moe_harness.bench.same_work import declared_difference
from moe_harness.cases.cases import golden_root
from moe_harness.implementations.interface import Unsupported
from moe_harness.records.record import read_run
from moe_harness.suite.subject import Subject

pytest_plugins = ["pytester"]
HONEST = "moe_harness.mutants.catalogue:backend"
CHECKPOINT = golden_root() / "mixtral" / "checkpoint"
Records = list[dict[str, Any]]
FEW_ROUNDS = "from moe_harness.bench import timing, warmup\ntiming.TIMED_S, timing.FEWEST_ROUNDS, warmup.MOST_S = 0.0, 4, 0.1\n"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> None:
    """As if this test run were not itself an xdist worker; backends of the test's own can be imported; rounds are few."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
    pytester.makeconftest(FEW_ROUNDS)


def bench(pytester: pytest.Pytester, selected: str, *more: str, backend: str = HONEST) -> Records:
    """The bench records of a run on the golden Mixtral: 12 experts, two a token."""
    pytester.runpytest_subprocess(
        "-q", "--benchmark", "--run-dir=run", f"--checkpoint={CHECKPOINT}", "--dtype=float32", "--backend", backend, "-k", selected, *more
    )
    return [record for record in read_run(pytester.path / "run") if record["type"] == "bench"]


def altered(pytester: pytest.Pytester, code: str) -> str:
    """A backend that is the honest one but for what `code` does to it (`backend`, whose attributes may be set)."""
    pytester.makepyfile(
        altered=f"""
        from dataclasses import replace
        from types import SimpleNamespace
        from moe_harness.mutants.catalogue import backend as honest

        def open_copy(thing):
            return SimpleNamespace(**{{name: getattr(thing, name) for name in dir(thing) if not name.startswith("_")}})

        def declare(backend, **changes):
            found = replace(backend.capabilities(), **changes)
            backend.capabilities = lambda: found

        def without(backend, feature):
            declare(backend, features=tuple(name for name in backend.capabilities().features if name != feature))

        def backend(variant=None):
            backend = open_copy(honest())
            {code}
            return backend
        """
    )
    return "altered:backend"


def test_a_block_on_a_processor_is_held_against_its_limit(pytester: pytest.Pytester):
    (record,) = bench(pytester, "test_moe_block and 64", backend=altered(pytester, "declare(backend, execution='cpu')"))
    assert (record["status"], record["workload"]) == ("PASS", "moe_block")
    assert record["parameters"].items() >= {"batch": 1, "sequence": 64, "routing": "own"}.items()
    (loads_E,), work, limit = record["work"]["loads"], record["work"], record["limit"]
    assert sum(loads_E) == 64 * 2 and work["experts_touched"] == sum(load > 0 for load in loads_E)
    assert limit["seconds"] == pytest.approx(max(work["flops"] / limit["flops_per_s"], work["bytes"] / limit["bytes_per_s"]))
    assert limit["share"] == pytest.approx(limit["seconds"] / median(record["samples"]))
    assert record["memory"]["host_peak_bytes"] > 10**7


def test_caches_are_emptied_before_each_round_of_a_cold_block(pytester: pytest.Pytester):
    counting = "from moe_harness.bench import cold\ncold.evict = lambda: open('evicted', 'a').write('x')\n"
    pytester.makeconftest(FEW_ROUNDS + counting)
    backend = altered(pytester, "declare(backend, execution='cpu')")
    (record,) = bench(pytester, "test_moe_block and 64-cold", "--wide", backend=backend)
    assert record["status"] == "PASS" and record["parameters"]["cache"] == "cold" and record["steps_per_round"] == 1
    assert len((pytester.path / "evicted").read_text()) > len(record["samples"]) + record["warmup"]


def test_other_caches_than_ours_cannot_be_emptied():
    with pytest.raises(Unsupported, match="not emptied from here"):
        cold.needs_cold_caches(cast(Subject, SimpleNamespace(backend=None, workshop=SimpleNamespace(device="cuda"))))


def test_whole_models_count_the_experts_of_every_call(pytester: pytest.Pytester):
    found = {record["workload"]: record for record in bench(pytester, "ttft or tpot or end_to_end")}
    assert not any("limit" in record for record in found.values())  # an emulation says nothing about this machine
    assert sorted(found) == ["end_to_end", "tpot", "ttft"] and {record["status"] for record in found.values()} == {"PASS"}
    loads = {name: record["work"]["loads"] for name, record in found.items()}
    tokens = {"ttft": 512, "tpot": 8, "end_to_end": 4 * (64 + 4)}
    assert all(sum(loads_E) == 2 * tokens[name] for name in tokens for loads_E in loads[name])
    layers = len(loads["tpot"])
    assert found["tpot"]["work"]["experts_touched"] == 8 * layers * 2  # one token a call has its two experts
    assert found["end_to_end"]["tokens"] == 4 * 4 and found["tpot"]["tokens"] == 8


def test_skewed_loads_are_exactly_those_in_the_record(pytester: pytest.Pytester):
    records = bench(pytester, "test_skew and 256", "--wide")
    loads = {record["parameters"]["routing"]: record["work"]["loads"][0] for record in records}
    assert sorted(loads) == ["balanced", "dead-experts", "hot-expert", "hot-rank", "uniform", "zipf"]
    assert {record["status"] for record in records} == {"PASS"} and all(sum(loads_E) == 512 for loads_E in loads.values())
    assert loads["hot-expert"] == [256] + [24] * 3 + [23] * 8  # 256 experts: others over eleven experts
    assert loads["hot-rank"] == [171, 171, 170] + [0] * 9  # four ranks of three experts
    assert loads["dead-experts"] == [86, 86, 85, 85, 85, 85] + [0] * 6


def test_a_model_that_ignores_its_pins_gets_void(pytester: pytest.Pytester):
    """Its own pass is right, so the gate opens; every skew would show the same speed."""
    pytester.makepyfile(
        deaf="""
        def loader(load, open_copy):
            def loaded(path, spec):
                model = open_copy(load(path, spec))
                block = model.moe_block
                model.moe_block = lambda layer, x_TD, pinned=None: block(layer, x_TD)
                return model
            return loaded
        """
    )
    name = altered(pytester, "import deaf; backend.load = deaf.loader(backend.load, open_copy)")
    (record,) = bench(pytester, "test_skew and zipf", backend=name)
    assert record["status"] == "VOID" and "does not compute what its pinned experts do" in record["reason"]
    assert not record.get("samples")


def test_what_a_backend_does_not_show_is_a_gap(pytester: pytest.Pytester):
    """Without pinned experts there is no skew; without visible routing a speed, but no work and no limit."""
    skew, ttft = bench(pytester, "zipf or ttft", backend=altered(pytester, "without(backend, 'pinned'); without(backend, 'routing')"))
    assert skew["status"] == "UNSUPPORTED" and "does not declare: pinned" in skew["reason"]
    assert ttft["status"] == "PASS" and ttft["samples"] and "work" not in ttft and "limit" not in ttft


def test_near_ties_leave_two_works_the_same_but_other_operations_do_not():
    def stating(**work: Any) -> Any:
        return SimpleNamespace(tokens=1, parameters={"batch": 1}, work=work)

    one, other = stating(flops=10, bytes=4, loads=[[2, 0]]), stating(flops=10, bytes=8, loads=[[1, 1]])
    assert declared_difference(one, other) == ""
    assert declared_difference(one, stating(flops=11, bytes=4)) == "operations differ: 10 and 11"


def test_a_conversion_is_held_against_a_copy(pytester: pytest.Pytester):
    records = bench(pytester, "conversion")
    assert [record["parameters"]["direction"] for record in records] == ["from_hf", "to_hf"]
    assert records[0]["copy"]["bytes"] == sum(path.stat().st_size for path in CHECKPOINT.iterdir())
    for record in records:
        assert record["status"] == "PASS" and record["tokens"] == 0
        assert len(record["copy"]["samples"]) == len(record["samples"]) and record["copy"]["ratio"] > 0


def test_a_conversion_that_changes_bits_gets_void(pytester: pytest.Pytester):
    """`to_hf` writes another value of the final norm."""
    pytester.makepyfile(
        spoilt="""
        from pathlib import Path
        def spoil(path):
            (file,) = Path(path).glob("*.safetensors")
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
        """
    )
    code = "import spoilt; to_hf = backend.to_hf; backend.to_hf = lambda src, dst: (to_hf(src, dst), spoilt.spoil(dst))"
    for record in bench(pytester, "conversion", backend=altered(pytester, code)):
        assert record["status"] == "VOID" and "tensors changed: 1" in record["reason"] and record["samples"] == []


def test_a_trace_is_replayed(pytester: pytest.Pytester):
    trace = pytester.path / "trace.json"
    trace.write_text(json.dumps({"loads": [5, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]}))
    (record,) = bench(pytester, "test_skew and trace", f"--routing-trace={trace}")
    assert record["work"]["loads"] == [[256, 256] + [0] * 10]  # both are full, a token having two different experts
    assert f"--routing-trace {trace}" in record["reproduce"]


def test_a_bad_trace_is_a_usage_error(pytester: pytest.Pytester):
    result = pytester.runpytest_subprocess("--benchmark", f"--backend={HONEST}", "--routing-trace=missing.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--routing-trace missing.json: no trace: *"])


def collected(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    result = pytester.runpytest_subprocess("-q", "--collect-only", "--benchmark", f"--backend={HONEST}", *arguments)
    return [line.split("::")[-1] for line in result.outlines if "::" in line]


def test_the_wide_set_is_asked_for(pytester: pytest.Pytester):
    narrow, wide = collected(pytester), collected(pytester, "--wide")
    assert len(narrow) <= 12 and set(narrow) < set(wide) and len(wide) > 3 * len(narrow)
    assert not any("layer-" in name for name in narrow)
    layers = {name.split("[")[0] for name in wide if "mixtral-8x7b-layer" in name}
    assert layers == {"test_moe_block", "test_skew", "test_router"}  # a single layer is no model
    assert not any("trace" in name for name in wide)
