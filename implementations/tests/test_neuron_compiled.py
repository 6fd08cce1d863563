"""Compiled graphs: what they cost is counted, in this process and in those of a mesh, and what a device leaves to its host is told."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moe_harness.implementations.interface import Compilation, Compiler, InvalidInput, LoadSpec, Request
from moe_harness.implementations.neuron import device
from moe_harness.implementations.neuron.backend import backend
from moe_harness.implementations.neuron.compiled import side_by_side
from moe_harness.implementations.neuron.settings import Variant
from moe_harness.implementations.tests.tiny import tiny_checkpoint

torch: Any = pytest.importorskip("torch")
Compiled: Any = pytest.importorskip("moe_harness.implementations.neuron.compiled").Compiled
SPEC = LoadSpec(max_batch=2, max_length=32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("compiled") / "hf"
    tiny_checkpoint(directory, num_hidden_layers=1)
    return directory


def steps(model: Any) -> np.ndarray:
    """A prompt, another one of the same bucket, and a token: two graphs."""
    prompt = np.random.default_rng(0).integers(3, 96, (1, 9))
    model.prefill(prompt[:, :5], np.array([5]), Request())
    model.reset()
    found = [model.prefill(prompt, np.array([9]), Request()), model.decode(np.array([5]), Request())]
    model.close()
    return np.stack([step.logits_BSV for step in found])


def test_the_backend_is_a_compiler():
    assert isinstance(backend(), Compiler)


def test_each_graph_is_compiled_once_and_counted_once(checkpoint: Path):
    subject: Any = backend("compiled")
    subject.compilation()
    found = steps(subject.load(str(checkpoint), SPEC))
    costs = subject.compilation()
    assert (costs.exported, costs.compiled) == (2, 2) and costs.export_s > 0 and costs.compile_s > 0
    assert subject.compilation() == Compilation()
    np.testing.assert_allclose(found, steps(backend().load(str(checkpoint), SPEC)), rtol=0, atol=2e-5)
    assert subject.compilation() == Compilation(), "what runs as it is written compiles nothing"


def test_the_processes_of_a_mesh_tell_theirs(checkpoint: Path):
    subject: Any = backend("tp2,compiled")
    subject.compilation()
    found = steps(subject.load(str(checkpoint), SPEC))
    costs = subject.compilation()
    assert (costs.exported, costs.compiled) == (2, 2) and costs.export_s > 0
    np.testing.assert_allclose(found, steps(backend("tp2").load(str(checkpoint), SPEC)), rtol=0, atol=2e-5)


def test_a_proof_is_an_export(checkpoint: Path):
    subject: Any = backend()
    subject.compilation()
    proofs = subject.load(str(checkpoint), LoadSpec(max_batch=2, max_length=16)).prove_static()
    costs = subject.compilation()
    assert costs.exported == len(proofs) and costs.compiled == 0


def test_a_graph_that_breaks_is_an_error():
    """What a compiler would run in pieces, between which the host decides."""

    class Decides(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x + 1 if x.sum().item() > 0 else x - 1

    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        Compiled(Decides(), "eager")(torch.ones(3))


def test_parts_of_one_graph_are_made_at_the_same_time():
    parts = [Compilation(2, 1.0, 2, 3.0, 0, {"sort": 2}), Compilation(2, 2.0, 2, 4.0, 1, {"sort": 1, "topk": 1})]
    assert side_by_side(parts) == Compilation(2, 2.0, 2, 4.0, 1, {"sort": 3, "topk": 1})


@pytest.fixture
def torchneuron(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What TorchNeuron has counted. Its four functions, as its documentation and its tests call them."""
    counted: dict[str, list[Any]] = {"left": [], "graphs": []}
    package, compiler = ModuleType("torch_neuronx"), ModuleType("torch_neuronx.neuron_dynamo_backend")
    vars(package).update(get_fallback_ops=lambda: list(counted["left"]), clear_op_tracking=lambda: counted["left"].clear())
    vars(compiler).update(get_dynamo_metrics=lambda: list(counted["graphs"]), reset_dynamo_metrics=lambda: counted["graphs"].clear())
    monkeypatch.setitem(sys.modules, "torch_neuronx", package)
    monkeypatch.setitem(sys.modules, "torch_neuronx.neuron_dynamo_backend", compiler)
    monkeypatch.setattr(device, "missing", lambda: "")
    return counted


def test_what_the_device_leaves_to_its_host_is_told_once(torchneuron: dict[str, list[Any]]):
    subject: Any = backend()
    subject.compilation()
    torchneuron["left"] += ["aten::sort", "aten::topk", "aten::sort"]
    assert subject.compilation() == Compilation(host_operators={"aten::sort": 2, "aten::topk": 1})
    assert subject.compilation() == Compilation()


def test_code_that_was_found_took_no_compiling(torchneuron: dict[str, list[Any]]):
    """TorchNeuron compiles behind torch.compile's back, when a graph is first run, or takes the code from its cache."""
    subject: Any = backend()
    subject.compilation()
    torchneuron["graphs"] += [SimpleNamespace(torch_neuronx_compile_us=us) for us in (1_500_000, 0, 500_000)]
    assert subject.compilation() == Compilation(compile_s=2.0, cached=1)


def test_who_compiles_is_said(checkpoint: Path):
    assert Variant.parse("tp2,compiled").options["compile"] == "device"
    with pytest.raises(ValueError, match="nxd has a compiler of its own"):
        Variant.parse("nxd,compiled")
    with pytest.raises(InvalidInput, match="none, device, eager, aot_eager, inductor or neuron is expected, got 'gcc'"):
        backend().load(str(checkpoint), LoadSpec(options={"compile": "gcc"}))


def test_there_may_be_many_graphs_in_a_process():
    """All compilations of one function, as those of dozens of models are: Dynamo would give up."""

    class Adds(torch.nn.Module):
        def __init__(self, amount: int):
            super().__init__()
            self.amount = amount

        def forward(self, x: Any) -> Any:
            return x + self.amount

    assert [float(Compiled(Adds(amount), "eager")(torch.zeros(()))) for amount in range(70)] == list(range(70))
