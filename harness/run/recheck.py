"""A capsule's case asked again of another build of a backend: 0 passes, 1 fails, 125 cannot be judged, as `git bisect run` wants it.

What the capsule holds is enough: a small checkpoint is written from its weights, and the calls are made again. Where it holds no weights,
or no experiment at all, the check itself is run, on the golden checkpoint of that name or on the directory that the capsule names, if the
weights there are the same.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from moe_harness.cases.cases import golden_root
from moe_harness.diagnosis.rejudge import rejudge
from moe_harness.implementations.interface import Backend, LoadSpec, Model, PinnedRouting, Probe, RouterBuilder, RouterWeights, Unsupported
from moe_harness.judge.exhibit import BLOCK, MODEL, PREFIX, RECORD, ROUTER, Exhibit
from moe_harness.judge.metric import Metric
from moe_harness.records.record import read_run
from moe_harness.records.status import FAILING, Status
from moe_harness.repro.calls import grids, run
from moe_harness.repro.capsule import Capsule
from moe_harness.repro.checkpoint import checkpoint_of, write_model
from moe_harness.run.launch import pytest_command
from moe_harness.run.workers import environment
from moe_harness.suite.run_spec import RunSpec

PASSES, FAILS, CANNOT = 0, 1, 125
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """`code`: for `git bisect run`; `sentence`: why."""

    code: int
    sentence: str


def recheck(capsule: Capsule, backend: Backend, device: str = "cpu") -> Outcome:
    """Raises nothing for what a build may do wrong: an exception of its own is a failure, a declared gap cannot be judged."""
    try:
        capabilities = backend.capabilities()
    except Exception as error:
        return Outcome(CANNOT, f"{backend.name} cannot say what it can do: {type(error).__name__}: {error}")
    if capabilities.unavailable:
        return Outcome(CANNOT, f"{backend.name} is unavailable: {capabilities.unavailable}")
    if capsule.exhibit.dtype not in capabilities.dtypes:
        return Outcome(CANNOT, f"{backend.name} does not declare {capsule.exhibit.dtype}")
    try:
        with TemporaryDirectory(prefix="moe-harness-recheck-") as scratch:
            answers = asked_again(capsule.exhibit, backend, Path(scratch), device)
        exhibit = replace(capsule.exhibit, arrays={**capsule.exhibit.arrays, **answers})
        return verdict_of(rejudge(replace(capsule, exhibit=exhibit)))
    except (Unsupported, ImportError) as error:
        return Outcome(CANNOT, f"cannot be judged: {type(error).__name__}: {error}")
    except Exception as error:
        return Outcome(FAILS, f"fails: {type(error).__name__}: {error}")


def verdict_of(metrics: list[Metric]) -> Outcome:
    violated = [metric for metric in metrics if metric.violated]
    if violated:
        return Outcome(FAILS, f"fails: {violated[0]}")
    return Outcome(PASSES, f"passes: {metrics[0]}" if metrics else "passes")


def asked_again(exhibit: Exhibit, backend: Backend, scratch: Path, device: str) -> Arrays:
    """The answers of this build, by the names of the exhibit's arrays."""
    ask: dict[str, Callable[[Exhibit, Model], Arrays]] = {ROUTER: _router, BLOCK: _block, MODEL: _model}
    if exhibit.facts.get("bare"):
        return _bare_router(exhibit, backend, device)
    assert exhibit.config is not None
    if exhibit.config.family not in backend.capabilities().families:
        raise Unsupported(f"{backend.name} does not declare family {exhibit.config.family}")
    path = write_model(exhibit, scratch / "checkpoint")
    if not backend.capabilities().reads_hf:
        backend.from_hf(str(path), str(scratch / "converted"))
        path = scratch / "converted"
    model = backend.load(str(path), _spec(exhibit, device))
    try:
        return ask[exhibit.kind](exhibit, model)
    finally:
        model.close()


def _spec(exhibit: Exhibit, device: str) -> LoadSpec:
    if exhibit.kind != MODEL:
        return LoadSpec(dtype=exhibit.dtype, device=device)
    places = grids(exhibit)
    rows, length = max(len(p.ids_BS) for p in places), sum(p.ids_BS.shape[1] for p in places)
    return LoadSpec(dtype=exhibit.dtype, device=device, max_batch=max(8, rows), max_length=max(128, length))


def _bare_router(exhibit: Exhibit, backend: Backend, device: str) -> Arrays:
    if not isinstance(backend, RouterBuilder) or "router" not in backend.capabilities().features:
        raise Unsupported(f"{backend.name} builds no routers by themselves")
    assert exhibit.config is not None
    parts = (exhibit.tensors.get(f"{PREFIX}router.{part}") for part in ("weight", "bias", "correction_bias"))
    router = backend.router(exhibit.config.routing, RouterWeights(*parts), LoadSpec(dtype=exhibit.dtype, device=device))  # type: ignore[arg-type]
    return _routed(router.route(exhibit.arrays["x_TD"]))


def _routed(routing: object) -> Arrays:
    found = {"ids_TK": routing.topk_ids_LTK[0], "weights_TK": routing.topk_weights_LTK[0]}  # type: ignore[attr-defined]
    logits = routing.router_logits_LTE  # type: ignore[attr-defined]
    return found if logits is None else {**found, "logits_TE": logits[0]}


def _probe(model: Model) -> Probe:
    if not isinstance(model, Probe):
        raise Unsupported("the model has no probe")
    return model


def _router(exhibit: Exhibit, model: Model) -> Arrays:
    return _routed(_probe(model).route(0, exhibit.arrays["x_TD"]))


def _block(exhibit: Exhibit, model: Model) -> Arrays:
    x_TD, weights_TK = exhibit.arrays["x_TD"], exhibit.arrays.get("weights_TK")
    if weights_TK is not None:
        pinned = PinnedRouting(exhibit.arrays["ids_TK"][None].astype(np.int64), weights_TK[None].astype(np.float32))
        return {"y_TD": _probe(model).moe_block(0, x_TD.copy(), pinned)}
    ids_TK = _probe(model).route(0, x_TD).topk_ids_LTK[0]
    return {"y_TD": _probe(model).moe_block(0, x_TD.copy()), "ids_TK": ids_TK}


def _model(exhibit: Exhibit, model: Model) -> Arrays:
    shown = any(name.endswith(".ids_LSK") for name in exhibit.arrays)
    came = run(model, exhibit, grids(exhibit), routing=shown)
    return {f"row{row}.{name}": array for row, parts in came.items() for name, array in parts.items()}


def can_ask_again(exhibit: Exhibit) -> bool:
    """Whether the capsule's own content is enough."""
    return exhibit.kind != RECORD and bool(exhibit.tensors)


def run_check(capsule: Capsule, backend: str, python: list[str] | None) -> Outcome:
    """The check itself, through pytest."""
    checkpoint = checkpoint_of(capsule)
    if capsule.checkpoint and checkpoint is None:
        return Outcome(CANNOT, f"no checkpoint {capsule.identity['case']} with the capsule's weights is here")
    golden = checkpoint is None or checkpoint.parent.parent == golden_root()
    name = capsule.identity["node"].split("::")[-1].split("[")[0]
    keyword = f"{name} and {capsule.identity['case']}" if golden else name
    own, dtypes = None if golden or checkpoint is None else [checkpoint], [capsule.identity["dtype"]]
    asked = RunSpec([backend], own, dtypes, keyword=keyword, python=python, workers=0)
    with TemporaryDirectory(prefix="moe-harness-recheck-") as scratch:
        directory = Path(scratch) / "run"
        subprocess.run(pytest_command("checks", asked, directory), env=environment(False), capture_output=True, check=False)
        records = [r for r in read_run(directory) if r["type"] == "check"] if directory.is_dir() else []
    statuses = {record["status"] for record in records}
    if statuses & set(FAILING):
        return Outcome(FAILS, f"fails: {next(r['reason'] for r in records if r['status'] in FAILING)}")
    if Status.PASS in statuses and statuses <= {Status.PASS}:
        return Outcome(PASSES, "passes")
    said = "; ".join(f"{r['status']} {r['reason']}" for r in records)
    return Outcome(CANNOT, f"{capsule.check} gave no verdict: {said or 'it was not asked'}")
