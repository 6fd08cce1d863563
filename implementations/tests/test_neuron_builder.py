"""The path of NxD's ModelBuilder, as far as it goes without NxD: what is missing is said, and what would be traced is the model. The
libraries are a stand-in's here."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_harness.implementations.interface import GenerationSpec, InvalidInput, LoadSpec, PinnedRouting, Request, StepOutput, Unsupported
from moe_harness.implementations.neuron import device
from moe_harness.implementations.neuron.backend import backend
from moe_harness.implementations.neuron.settings import Variant
from moe_harness.implementations.tests import nxd_standin
from moe_harness.implementations.tests.tiny import tiny_checkpoint

torch = pytest.importorskip("torch")
CLOSE: dict[str, Any] = dict(rtol=0, atol=2e-5)  # float32, logits of unit size
ALL, LAST = Request("all", routing=True), Request()
WRONG = "raise ImportError('WRONG PACKAGE. Please install the package from Neuron Repository')"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch):
    """No tool and no variable of this machine's, and nothing remembered."""
    for name in (device.NUMBER, device.VISIBLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device, "BIN", "")
    device.nxd_missing.cache_clear()
    yield
    device.nxd_missing.cache_clear()


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch):
    for name, module in nxd_standin.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv(device.NUMBER, "4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Biases, a gated shared expert, a dense layer, and key heads that four processes share."""
    path: Path = tmp_path_factory.mktemp("nxd") / "hf"
    tiny_checkpoint(path, "qwen2_moe", num_experts=12, num_key_value_heads=2)
    return path


def load(path: Path, variant: str | None, **options: str) -> Any:
    return backend(variant).load(str(path), LoadSpec(max_batch=3, max_length=40, options=options))


def steps(model: Any) -> list[StepOutput]:
    """Ragged prompts in two buckets, tokens, a further chunk up to the last position, a fresh start."""
    ids = np.random.default_rng(0).integers(3, 96, (2, 33))
    found = [model.prefill(ids[:, :4], np.array([4, 2]), ALL), *(model.decode(np.array([5, 6]), ask) for ask in (ALL, LAST))]
    found += [model.prefill(ids, np.array([33, 3]), ALL), model.prefill(ids[:1, :1].repeat(2, 0), np.array([1, 1]), LAST)]
    model.reset()
    return [*found, model.prefill(ids, np.array([33, 17]), Request("last", routing=True)), model.decode(np.array([7, 8]), LAST)]


def same(found: list[StepOutput], wanted: list[StepOutput]) -> None:
    for a, b in zip(found, wanted, strict=True):
        valid: Any = slice(None)
        if b.routing is not None:
            mask = b.routing.mask_T
            assert np.array_equal(a.routing.topk_ids_LTK[:, mask], b.routing.topk_ids_LTK[:, mask])
            np.testing.assert_allclose(a.routing.topk_weights_LTK[:, mask], b.routing.topk_weights_LTK[:, mask], **CLOSE)
            np.testing.assert_allclose(a.routing.router_logits_LTE[:, mask], b.routing.router_logits_LTE[:, mask], **CLOSE)
            assert (a.routing.dropped_LTK is None) == (b.routing.dropped_LTK is None)
            valid = mask if b.logits_BSV.shape[1] > 1 else slice(None)
        logits = [each.logits_BSV.reshape(-1, each.logits_BSV.shape[-1])[valid] for each in (a, b)]
        np.testing.assert_allclose(logits[0], logits[1], **CLOSE)


@pytest.mark.parametrize("variant, options", [
    ("nxd,tp1", {}),
    ("nxd,tp2", {"capacity_factor": "0.5"}),
    ("nxd,tp2,batched,blockwise", {"block": "4"}),
    ("nxd,selective", {}),
])  # fmt: skip
def test_what_is_traced_is_the_model(checkpoint: Path, standin: None, variant: str, options: dict[str, str]):
    """One program, the first process's, with every process's weights and a cache of its own."""
    plain = ",".join(word for word in variant.split(",") if word != "nxd" and not word.startswith("tp")) or None
    model, wanted = load(checkpoint, variant, **options), load(checkpoint, plain, **options)
    assert model._engine._model.world_size == (Variant.parse(variant).tp or 4)
    same(steps(model), steps(wanted))
    asked = (np.array([[5, 6, 7]]), np.array([3]), GenerationSpec(4))
    assert model.generate(*asked) == wanted.generate(*asked)


def test_rows_come_and_go(checkpoint: Path, standin: None):
    found = []
    for variant in ("nxd,tp2", None):
        model, ids = load(checkpoint, variant), np.arange(3, 23).reshape(2, 10)
        model.prefill_slots(ids, np.array([10, 7]), np.array([2, 0]), LAST)
        model.prefill_slots(ids[:1], np.array([4]), np.array([1]), LAST)
        found.append(model.decode_slots(np.array([4, 5, 6]), np.array([1, 0, 2]), LAST).logits_BSV)
    np.testing.assert_allclose(found[0], found[1], **CLOSE)


def test_what_is_not_compiled_is_said(checkpoint: Path, standin: None):
    model, x = load(checkpoint, "nxd,tp1"), np.zeros((2, 32), np.float32)
    made: Any = backend("nxd")
    assert not {"pinned", "probe", "router", "static"} & set(backend("nxd").capabilities().features)
    layers, K = len(model.config.moe_layers), model.config.routing.top_k
    pinned = Request(pinned=PinnedRouting(np.zeros((layers, 2, K), np.int64) + np.arange(K)))
    for ask in (lambda: model.prefill(np.array([[5, 6]]), np.array([2]), pinned), lambda: model.route(0, x), model.prove_static,
                lambda: model.moe_block(0, x), lambda: made.router(None, None, LoadSpec())):  # fmt: skip
        with pytest.raises(Unsupported, match="NxD"):
            ask()
    assert model.prefill(np.array([[5, 6]]), np.array([2]), LAST).logits_BSV.shape == (1, 1, 96)


def test_a_compiled_model_is_kept(checkpoint: Path, standin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Under a name that changes with all it depends on."""
    from moe_harness.implementations.neuron import builder

    version = "2.0"
    monkeypatch.setattr(builder.metadata, "version", lambda name: version)
    before, kept = nxd_standin.ModelBuilder.compiled, str(tmp_path / "kept")
    first, second = (steps(load(checkpoint, "nxd,tp2", compiled=kept)) for _ in range(2))
    assert nxd_standin.ModelBuilder.compiled == before + 1 and len(list((tmp_path / "kept").iterdir())) == 1
    same(first, second)
    load(checkpoint, "nxd,tp2", compiled=kept, capacity_factor="0.5")
    version = "2.1"
    load(checkpoint, "nxd,tp2", compiled=kept)
    assert nxd_standin.ModelBuilder.compiled == before + 3


def test_a_cache_that_is_no_state_is_an_error(checkpoint: Path, standin: None, monkeypatch: pytest.MonkeyPatch):
    ready = nxd_standin.NxDModel.to_neuron

    def forgetful(model: Any) -> None:
        ready(model)
        model.states[0].popitem()

    monkeypatch.setattr(nxd_standin.NxDModel, "to_neuron", forgetful)
    with pytest.raises(RuntimeError, match="NxD holds 5 states, the cache has 6 tensors"):
        load(checkpoint, "nxd,tp1")


def test_the_cache_is_replaced_and_not_written_to():
    from moe_harness.implementations.neuron.attention import KVCache
    from moe_harness.implementations.neuron.traced import Replaced

    written = KVCache(2, (3, 2, 8, 4), torch.float32, torch.device("cpu"))
    for each in written.buffers():
        each.normal_()
    replaced = Replaced(written)
    before = {name: (each, each.clone()) for name, each in replaced.named_buffers()}
    written = KVCache(2, (3, 2, 8, 4), torch.float32, torch.device("cpu"))
    written.load_state_dict({name: each for name, (_, each) in before.items()})
    rows, keys, values = torch.tensor([2, 0]), torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)
    for cache in (written, replaced):
        cache.fill(0, rows, keys, values)
        cache.write(1, rows, torch.tensor([[1, 7, 8], [8, 0, 2]]), keys, values)
    assert all(torch.equal(a, b) for a, b in zip(written.buffers(), replaced.buffers(), strict=True))
    assert all(torch.equal(old, copied) and replaced.get_buffer(name) is not old for name, (old, copied) in before.items())


def _place(folder: Path, module: str, source: str) -> None:
    (folder / module).mkdir()
    (folder / module / "__init__.py").write_text(source)


@pytest.mark.parametrize("sources, why", [
    ({}, "torch-neuronx is not installed"),
    ({"torch_neuronx": WRONG}, "torch-neuronx is PyPI's placeholder"),
    ({"torch_neuronx": "import torch_xla_of_nobody"}, "torch-neuronx cannot be imported: No module named 'torch_xla_of_nobody'"),
    ({"torch_neuronx": "raise OSError('libnrt.so.1: cannot open')"}, "torch-neuronx cannot be imported: OSError: libnrt.so.1"),
    ({"torch_neuronx": "", "libneuronxla": WRONG}, "libneuronxla is PyPI's placeholder"),
    ({"torch_neuronx": "", "libneuronxla": ""}, "neuronx-distributed is not installed"),
    ({"torch_neuronx": "", "libneuronxla": "", "neuronx_distributed-0.1.dist-info": ""}, "neuronx-distributed is PyPI's placeholder"),
    ({"torch_neuronx": "", "libneuronxla": "", "neuronx_distributed": "ModelBuilder = 0"},
     "neuronx-distributed has no NxDModel, NxDParallelState: a placeholder, or older than 0.14"),
])  # fmt: skip
def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: dict[str, str], why: str):
    for name, source in sources.items():
        _place(tmp_path, name, source)
    for info in tmp_path.glob("*.dist-info"):
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: neuronx-distributed\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = [name for name in sys.modules if name.split(".")[0] in ("torch_neuronx", "libneuronxla", "neuronx_distributed")]
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    try:
        found = backend("nxd,tp2").capabilities().unavailable
        assert why in found and "pip install neuronx-cc==2.* torch-neuronx==2.9.* neuronx-distributed --extra-index-url" in found
        with pytest.raises(Unsupported) as raised:
            load(tmp_path, "nxd,tp2")
        assert str(raised.value) == found
    finally:
        for name in ("torch_neuronx", "libneuronxla", "neuronx_distributed"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("text, tp", [("nxd", 0), ("nxd,tp2", 2), ("tp1,nxd,batched", 1)])
def test_a_variant_names_the_compiler_and_the_cores(text: str, tp: int):
    found = Variant.parse(text)
    assert found.nxd and found.tp == tp and found.batched == ("batched" in text)


def test_what_makes_no_sense_is_named(checkpoint: Path):
    with pytest.raises(ValueError, match="nxd runs one program on all cores"):
        Variant.parse("nxd,ep2")
    with pytest.raises(InvalidInput, match="'compile' is a backend of torch.compile"):
        load(checkpoint, "nxd", compile="eager")
    with pytest.raises(InvalidInput, match="'compiled' is for the variant nxd"):
        load(checkpoint, None, compiled="/nowhere")


@pytest.mark.parametrize("number, visible, listed, wanted", [
    (None, None, 0, 0), ("0", None, 2, 2), ("2", None, 32, 2), (None, "4", 32, 1), (None, "0-3", 32, 4), (None, "0,2,4-7", 32, 6),
    ("2", "0-3", 32, 2), ("8", "0-3", 2, 2), ("8", None, 0, 8),
])  # fmt: skip
def test_cores_are_the_least_of_what_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: str | None, visible: str | None, listed: int, wanted: int
):
    for name, value in ((device.NUMBER, number), (device.VISIBLE, visible)):
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(device, "BIN", str(tmp_path))
    devices = "[" + ",".join('{"neuron_device": 0, "nc_count": 2}' for _ in range(listed // 2)) + "]"
    (tmp_path / "neuron-ls").write_text(f"#!/bin/sh\n[ \"$*\" = --json-output ] && echo '{devices}'\n")
    (tmp_path / "neuron-ls").chmod(0o755)
    assert device.visible() == wanted
    if wanted:
        assert device.world(0) == wanted and device.world(1) == 1
    with pytest.raises(Unsupported, match=f"tp64 takes 64 NeuronCores, {wanted} are visible" if wanted else "no NeuronCore is visible"):
        device.world(64)


@pytest.mark.parametrize("name, text", [(device.NUMBER, "two"), (device.NUMBER, "-1"), (device.VISIBLE, "a"), (device.VISIBLE, "3-1"),
                                        (device.VISIBLE, "1-2-3"), (device.VISIBLE, "0,")])  # fmt: skip
def test_a_variable_without_sense_is_named(standin: None, monkeypatch: pytest.MonkeyPatch, name: str, text: str):
    monkeypatch.setenv(name, text)
    assert f"{name}: " in backend("nxd").capabilities().unavailable


@pytest.mark.parametrize("whose", ["standin", "real"])
def test_signatures_are_those_that_are_used(whose: str, monkeypatch: pytest.MonkeyPatch):
    if whose == "standin":
        for name, module in nxd_standin.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
    elif why := device.nxd_missing():
        pytest.skip(why)
    nxd: Any = import_module("neuronx_distributed")
    mappings: Any = import_module("neuronx_distributed.parallel_layers.mappings")
    for called, given, named in (
        (nxd.NxDParallelState, [], dict(world_size=2, tensor_model_parallel_size=2)),
        (nxd.ModelBuilder, ["module"], {}),
        (nxd.ModelBuilder.trace, ["self"], dict(kwargs={}, tag="tag")),
        (nxd.ModelBuilder.compile, ["self"], dict(compiler_workdir="directory", compiler_args="arguments")),
        (nxd.NxDModel.load, ["file"], {}),
        (nxd.NxDModel.save, ["self", "file"], {}),
        (nxd.NxDModel.set_weights, ["self", []], {}),
        (nxd.NxDModel.to_neuron, ["self"], {}),
        (nxd.NxDModel.write_to_neuron_buffer, ["self", "tensor", "key", 0], {}),
        (nxd.NxDModel.forward, ["self"], dict(model_name="tag", ids_BS="tensor")),
        (mappings.reduce_from_tensor_model_parallel_region, ["tensor"], {}),
        (mappings.gather_from_tensor_model_parallel_region, ["tensor"], {}),
    ):
        inspect.signature(called).bind(*given, **named)
    assert "model_name" in inspect.signature(nxd.NxDModel.forward).parameters
