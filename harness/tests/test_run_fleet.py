"""A run shared out over a fleet: planned as pytest would, done in shares, and complete whatever happens to the machines."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from moe_harness.mutants.catalogue import SPECIFICATION
from moe_harness.records.frame import load_frame
from moe_harness.records.record import read_run
from moe_harness.report.build import build
from moe_harness.run.fleet.cluster import NoCluster, connected, needs, require
from moe_harness.run.fleet.fan_out import Fleet, fan_out
from moe_harness.run.fleet.perform import perform
from moe_harness.run.fleet.plan import planned
from moe_harness.run.fleet.share import Share, shares
from moe_harness.suite.run_spec import RunSpec

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
from ray.cluster_utils import Cluster  # noqa: E402

ROUTE_04 = RunSpec([SPECIFICATION], dtype=["float32"], keyword="ROUTE-04 and (mixtral or olmoe)")
KNOWN = """[[expect]]
check = "ROUTE-01"
signature = "disk full"
reason = "the disks of the old machines are small"
url = "https://example.org/1"
expires = 2999-01-01
"""
PATIENCE = 120.0  # seconds


def items(*cases: str) -> list[dict]:
    """Two checks a case."""
    return [
        {"node": f"test_x.py::test_{n}[{case}]", "check": f"ROUTE-0{n}", "title": "x", "backend": "b", "case": case, "dtype": "float32"}
        for case in cases
        for n in (1, 2)
    ]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_share_is_what_one_model_can_do():
    found = shares([*items("mixtral"), *items("olmoe"), items("mixtral")[0] | {"dtype": "bfloat16"}])
    assert [(share.name, len(share.items)) for share in found] == [
        ("b on mixtral, float32", 2), ("b on olmoe, float32", 2), ("b on mixtral, bfloat16", 1),
    ]  # fmt: skip


def test_the_plan_is_what_pytest_collects(capsys):
    found = planned(ROUTE_04)
    assert {(item["check"], item["case"]) for item in found} == {("ROUTE-04", "mixtral"), ("ROUTE-04", "olmoe")}
    with pytest.raises(typer.Exit):
        planned(RunSpec([SPECIFICATION], keyword="no_such_check"))
    assert "no check matches" in capsys.readouterr().err


def test_a_share_brings_its_records(tmp_path: Path):
    (share, _) = shares(planned(ROUTE_04))
    files = perform(ROUTE_04, share, "the-run")
    records = [json.loads(line) for data in files.values() for line in data.splitlines()]
    assert [r["status"] for r in records if r["type"] == "check"] == ["PASS"] and records[0]["run_id"] == "the-run"


@pytest.mark.parametrize("device, wanted", [("cpu", {}), ("cuda:1", {"num_gpus": 1}), ("neuron", {"resources": {"neuron_cores": 1}})])
def test_what_a_device_needs(device: str, wanted: dict):
    assert needs(device) == {"num_cpus": 1, "max_retries": 1, **wanted}


def test_where_nobody_listens_is_said_at_once():
    began = time.monotonic()
    with pytest.raises(NoCluster, match="no Ray cluster at 127.0.0.1:1: .*refused"), connected("127.0.0.1:1"):
        pass
    assert time.monotonic() - began < PATIENCE / 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that does no work; tests add and remove the machines that do."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False})
    ray.init(address=found.address, log_to_driver=False, logging_level="error")
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def machines(cluster: Cluster) -> Iterator[dict[str, object]]:
    """Two of them, one core each, by Ray's id."""
    found = {node.node_id: node for node in (cluster.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(2))}
    yield found
    for node in found.values():
        cluster.remove_node(node, allow_graceful=False)


def work(scratch: Path, slow: str) -> Callable[[RunSpec, Share, str], dict[str, bytes]]:
    """Records PASS for every check; the share of the case `slow` first says where it is and waits to be let go. A closure: Ray's
    machines need not find this file."""
    place, slow_case = str(scratch), slow

    def done(spec: RunSpec, share: Share, run_id: str) -> dict[str, bytes]:
        import json
        import time
        from pathlib import Path

        import ray

        if share.case == slow_case:
            (Path(place) / ray.get_runtime_context().get_node_id()).touch()
            while not (Path(place) / "go").exists():
                time.sleep(0.05)
        common = {"schema": 1, "time": "2026-01-01T00:00:00.000000+00:00"}
        records = [{"type": "run", "run_id": run_id}, *({"type": "check", "status": "PASS", **item} for item in share.items)]
        lines = [json.dumps({**common, **record}) for record in [*records, {"type": "end", "exit_status": 0}]]
        return {"records-7.jsonl": ("\n".join(lines) + "\n").encode()}

    return done


def started(scratch: Path, among: dict[str, object]) -> list[str]:
    return [name for name in among if (scratch / name).exists()]


def run(directory: Path, scratch: Path, during: Callable[[], None]) -> dict[tuple[str, str], tuple[str, str]]:
    """(case, check) -> (status, reason) of a run that is disturbed."""
    fleet = Fleet("auto", work(scratch, "mixtral"))
    thread = threading.Thread(target=fan_out, args=(ROUTE_04, fleet, items("mixtral", "olmoe", "dots1"), directory))
    thread.start()
    during()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    return {(r["case"], r["check"]): (r["status"], r.get("reason", "")) for r in read_run(directory) if r["type"] == "check"}


def test_a_share_whose_machine_is_lost_is_done_by_another(cluster: Cluster, machines: dict, tmp_path: Path):
    def kill_one() -> None:
        until(lambda: started(tmp_path, machines))
        (lost,) = started(tmp_path, machines)
        cluster.remove_node(machines.pop(lost), allow_graceful=False)
        until(lambda: started(tmp_path, machines))
        (tmp_path / "go").touch()

    found = run(tmp_path / "run", tmp_path, kill_one)
    assert len(found) == 6 and {status for status, _ in found.values()} == {"PASS"}


def test_a_share_that_is_lost_twice_is_recorded_as_crashed(cluster: Cluster, machines: dict, tmp_path: Path):
    def kill_both() -> None:
        for _ in range(2):
            until(lambda: started(tmp_path, machines))
            (lost,) = started(tmp_path, machines)
            cluster.remove_node(machines.pop(lost), allow_graceful=False)
        extra = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        machines[extra.node_id] = extra

    found = run(tmp_path / "run", tmp_path, kill_both)
    lost = {status for (case, _), status in found.items() if case == "mixtral"}
    assert {status for status, _ in lost} == {"CRASHED"} and all("the machine was lost" in reason for _, reason in lost)
    assert {status for (case, _), (status, _) in found.items() if case != "mixtral"} == {"PASS"}
    assert build(load_frame([tmp_path / "run"]), tmp_path / "report").code == 1  # a failure, and nothing is missing


def test_a_share_that_raises_is_not_tried_again(cluster: Cluster, machines: dict, tmp_path: Path):
    def broken(spec: RunSpec, share: Share, run_id: str) -> dict[str, bytes]:
        raise OSError("disk full")

    fan_out(ROUTE_04, Fleet("auto", broken), items("mixtral"), tmp_path / "run")
    reasons = {r["reason"] for r in read_run(tmp_path / "run") if r["type"] == "check"}
    assert len(reasons) == 1 and "disk full" in reasons.pop()
    (tmp_path / "known.toml").write_text(KNOWN, encoding="utf-8")
    fan_out(replace(ROUTE_04, expect=[tmp_path / "known.toml"]), Fleet("auto", broken), items("mixtral"), tmp_path / "known")
    ended = {r["check"]: (r["status"], bool(r["expected"])) for r in read_run(tmp_path / "known") if r["type"] == "check"}
    assert ended.pop("ROUTE-01") == ("KNOWN", True) and set(ended.values()) <= {("CRASHED", False)}


def test_what_no_machine_has_is_said_at_once(cluster: Cluster, machines: dict, tmp_path: Path):
    with connected("auto") as module, pytest.raises(NoCluster, match="no machine of the Ray cluster has CPU 1, neuron_cores 1"):
        require(module, needs("neuron"))
