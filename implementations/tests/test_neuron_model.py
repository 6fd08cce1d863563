"""The Neuron model beside the contract's float64 checks in the harness: fixed shapes show nowhere, options do what they say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_harness.implementations.interface import InvalidInput, LoadSpec, PinnedRouting, Request, Unsupported
from moe_harness.implementations.neuron import device
from moe_harness.implementations.neuron.backend import FAMILIES, backend
from moe_harness.implementations.neuron.seats import bucket, buckets
from moe_harness.implementations.neuron.settings import Variant
from moe_harness.implementations.tests.tiny import tiny_checkpoint

torch = pytest.importorskip("torch")
ALL = Request("all", routing=True)
CLOSE: dict[str, Any] = dict(rtol=0, atol=2e-5)  # float32, logits of unit size; graphs of other sizes add up in another order


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("neuron") / request.param
    tiny_checkpoint(path, request.param)
    return path


def load(path: Path, variant: str | None = None, **options: str) -> Any:
    return backend(variant).load(str(path), LoadSpec(max_batch=3, max_length=40, options=options))


def ids(B: int, S: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 96, (B, S))


@pytest.mark.parametrize("length", [15, 16, 17, 31, 32, 33, 40])
def test_nothing_shows_at_the_edge_of_a_bucket(checkpoint: Path, length: int):
    """A prompt at once, and the same with its last token decoded."""
    model, prompt = load(checkpoint), ids(1, length)
    whole = model.prefill(prompt, np.array([length]), ALL).logits_BSV[:, -1]
    model.reset()
    model.prefill(prompt[:, :-1], np.array([length - 1]), Request())
    np.testing.assert_allclose(model.decode(prompt[:, -1], Request()).logits_BSV[:, 0], whole, **CLOSE)


def test_a_batch_is_its_rows(checkpoint: Path):
    """Encoded one by one or together, right or left, with rows of the cache left over: the same logits."""
    prompt, lengths = ids(2, 9), np.array([9, 4])
    left = np.stack([np.roll(row, 9 - n) for row, n in zip(prompt, lengths, strict=True)])
    found = []
    for given, side, one_by_one in ((prompt, "right", "true"), (prompt, "right", "false"), (left, "left", "true")):
        model = load(checkpoint, continuous_batching=one_by_one)
        first = model.prefill(given, lengths, Request(padding=side)).logits_BSV
        found.append([first, *(model.decode(np.array([5, 6]), Request()).logits_BSV for _ in range(2))])
    for other in found[1:]:
        np.testing.assert_allclose(np.array(other), np.array(found[0]), **CLOSE)


def test_a_row_that_is_not_finite_stays_alone(tmp_path: Path):
    """One token's embedding is NaN: the other row's logits are what they are without it."""
    from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
    from moe_harness.implementations.checkpoint.writer import write_tensors

    tiny_checkpoint(tmp_path / "m")
    prompt = ids(2, 6) % 90 + 3
    plain = load(tmp_path / "m").prefill(prompt, np.array([6, 6]), ALL).logits_BSV
    with Checkpoint(tmp_path / "m") as source:
        tensors = {p.source: np.array(source.source(p.source)) for p in source.layout}
    tensors["model.embed_tokens.weight"][95] = np.nan
    write_tensors(tmp_path / "m", {name: each.nbytes for name, each in tensors.items()}, tensors.__getitem__)
    prompt[0, 2] = 95
    for together in ("true", "false"):
        model = load(tmp_path / "m", continuous_batching=together)
        found = model.prefill(prompt, np.array([6, 6]), ALL).logits_BSV
        assert np.isnan(found[0, 2:]).all() and np.array_equal(found[1], plain[1])
        assert np.isfinite(model.decode(np.array([3, 4]), Request()).logits_BSV[1]).all()


def test_capacity_drops_by_token_order_and_weights_add_up_again(checkpoint: Path):
    model = load(checkpoint, capacity_factor="0.5")
    assert model.config.routing.top_k > 1
    routing = model.prefill(ids(1, 16), np.array([16]), ALL).routing
    chosen, dropped, weights = (each[0] for each in (routing.topk_ids_LTK, routing.dropped_LTK, routing.topk_weights_LTK))
    room = -(-16 * chosen.shape[1] // (2 * model.config.routing.num_experts))
    taken = np.zeros(model.config.routing.num_experts, int)
    for row, gone in zip(chosen, dropped, strict=True):
        assert [taken[e] >= room for e in row] == gone.tolist()
        taken[row] += 1
    assert dropped.any() and (weights[dropped] == 0).all()
    if model.config.routing.normalize_topk:
        left = ~dropped.all(1)
        np.testing.assert_allclose(weights[left].sum(1), model.config.routing.scaling_factor, rtol=1e-6)


def test_pinned_weights_of_who_is_dropped_are_0(checkpoint: Path):
    model, prompt = load(checkpoint, capacity_factor="0.5"), ids(1, 16)
    own = model.prefill(prompt, np.array([16]), ALL).routing
    model.reset()
    pinned = PinnedRouting(own.topk_ids_LTK, np.ones_like(own.topk_weights_LTK))
    found = model.prefill(prompt, np.array([16]), Request("all", routing=True, pinned=pinned)).routing
    assert found.dropped_LTK.any() and np.array_equal(found.topk_weights_LTK, np.where(found.dropped_LTK, 0, 1))


def test_capacity_has_no_say_when_decoding_and_pads_count_unless_masked(checkpoint: Path):
    prompt, lengths = ids(3, 16), np.array([16, 3, 2])
    counted, masked = (
        load(checkpoint, capacity_factor="0.5", continuous_batching="false", mask_padding=flag) for flag in ("false", "true")
    )
    dropped = []
    for model in (counted, masked):
        routing = model.prefill(prompt, lengths, ALL).routing
        dropped.append(int(routing.dropped_LTK[:, routing.mask_T].sum()))
        assert model.decode(np.array([3, 4, 5]), ALL).routing.dropped_LTK is None
    assert dropped[1] < dropped[0]


@pytest.mark.parametrize("variant", ["all", "selective", "blockwise"])
def test_every_path_is_the_same_model(checkpoint: Path, variant: str):
    prompt, lengths = ids(2, 12), np.array([12, 7])
    wanted, found = (load(checkpoint, each, block="4").prefill(prompt, lengths, ALL) for each in (None, variant))
    mask = wanted.routing.mask_T
    np.testing.assert_allclose(found.logits_BSV.reshape(len(mask), -1)[mask], wanted.logits_BSV.reshape(len(mask), -1)[mask], **CLOSE)


def test_pinned_experts_are_used(checkpoint: Path):
    model = load(checkpoint)
    x = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    own = model.route(0, x)
    pinned = PinnedRouting(own.topk_ids_LTK, own.topk_weights_LTK)
    np.testing.assert_allclose(model.moe_block(0, x, pinned), model.moe_block(0, x), **CLOSE)
    elsewhere = PinnedRouting((own.topk_ids_LTK + 1) % model.config.routing.num_experts)
    assert np.abs(model.moe_block(0, x, elsewhere) - model.moe_block(0, x)).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"capacity": "1"}, "unknown option 'capacity'; known: capacity_factor"),
        ({"capacity_factor": "-1"}, "option 'capacity_factor': a positive number is expected, got '-1'"),
        ({"mask_padding": "yes"}, "option 'mask_padding': true or false"),
        ({"router_dtype": "float64"}, "float32 or model"),
        ({"block": "0"}, "a positive integer"),
    ],
)
def test_options_without_sense_are_named(tmp_path: Path, options: dict[str, str], said: str):
    tiny_checkpoint(tmp_path / "m")
    with pytest.raises(InvalidInput, match=said):
        load(tmp_path / "m", **options)


@pytest.mark.parametrize("text", ["tp0", "tpx", "capacity", "tp2;ep2", "tp2,"])
def test_variants_without_sense_are_named(text: str):
    with pytest.raises(ValueError, match="has no variant"):
        Variant.parse(text)


def test_what_is_not_built_is_said(tmp_path: Path):
    tiny_checkpoint(tmp_path / "olmoe", "olmoe")
    with pytest.raises(Unsupported, match="norms over all heads"):
        load(tmp_path / "olmoe")


@pytest.mark.parametrize(("variant", "refuses"), [("selective", True), ("blockwise", True), ("all", False), (None, False)])
def test_weights_that_would_not_fit_in_memory_are_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str | None, refuses: bool
):
    """NxD's own rule takes no path that copies, for so few tokens."""
    tiny_checkpoint(tmp_path / "m", num_hidden_layers=1)
    model = load(tmp_path / "m", variant)
    monkeypatch.setattr("moe_harness.implementations.common.torch.memory.free_bytes", lambda device: 1000)
    ask = (ids(1, 5), np.array([5]), Request())
    if refuses:
        with pytest.raises(Unsupported, match=f"{variant} copies .* of expert weights for 16 tokens"):
            model.prefill(*ask)
        monkeypatch.undo()
    model.prefill(*ask)


PLACEHOLDER = "raise ImportError('WRONG PACKAGE. Please install the package from the Neuron Repository')"


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (None, "torch-neuronx is not installed"),
        (PLACEHOLDER, "torch-neuronx is PyPI's placeholder"),
        ("raise OSError('libnrt.so.1: cannot open')", "torch-neuronx cannot be imported: OSError: libnrt.so.1"),
        ("", "torch-neuronx finds no device"),
    ],
)
def test_why_there_is_no_device_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str | None, why: str):
    if module is not None:
        (tmp_path / "torch_neuronx.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch_neuronx", raising=False)
    device.missing.cache_clear()
    found = backend().capabilities()
    assert found.execution == "emulated" and why in found.execution_note and found.unavailable is None
    with pytest.raises(Unsupported, match="no Neuron device: .*; the real one: pip install torch-neuronx --extra-index-url"):
        backend().load(str(tmp_path), LoadSpec(device="neuron"))
    device.missing.cache_clear()
    sys.modules.pop("torch_neuronx", None)


def test_buckets_are_powers_of_two_up_to_the_longest():
    assert buckets(100) == (16, 32, 64, 100) and buckets(16) == (16,) and buckets(5) == (5,)
    assert [bucket(n, buckets(100)) for n in (0, 1, 16, 17, 65, 100)] == [16, 16, 16, 32, 100, 100]
