"""Packed sequences, loss and NaN pads of the hf and native backends, each against its own plain runs and float64 formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from moe_harness.implementations import families, registry  # noqa: E402
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint  # noqa: E402
from moe_harness.implementations.checkpoint.writer import write_tensors  # noqa: E402
from moe_harness.implementations.interface import InvalidInput, LoadSpec, PinnedRouting, Request  # noqa: E402
from moe_harness.implementations.tests.tiny import tiny_checkpoint  # noqa: E402
from moe_harness.implementations.tests.tiny_hf import assert_same_maths, full, load, one_thread, prompts  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("one_thread")
BACKENDS = [("native", {}), ("hf", {}), ("hf", {"attention": "eager"}), ("hf:grouped_mm", {})]
FAMILIES = sorted(families.families())
BOUNDS = np.array([0, 1, 8, 9, 20])  # sequences of 1, 7, 1 and 11 tokens
ALL = Request("all", routing=True)


def stream(seed: int = 0) -> np.ndarray:
    return prompts(B=1, S=20, seed=seed)[0]


@pytest.mark.parametrize("name, options", BACKENDS)
@pytest.mark.parametrize("family, window", [*((family, None) for family in FAMILIES), ("mixtral", 4), ("qwen3_moe", 2)])
def test_packed_sequences_equal_each_alone(tmp_path: Path, family: str, window: int | None, name: str, options: dict[str, str]):
    """With routing, last logits, and a cache that is neither read nor written."""
    model, config = load(tmp_path, family, name, options=options, sliding_window=window)
    ids = stream()
    model.prefill(prompts(), full(prompts()), Request("none"))
    packed = model.prefill_packed(ids, BOUNDS, ALL)
    last = model.prefill_packed(ids, BOUNDS, Request("last")).logits_BSV
    assert packed.logits_BSV.shape == (1, 20, config.vocab_size) and last.shape == (1, 4, config.vocab_size)
    assert packed.logits_BSV.dtype == np.float32 and packed.routing.mask_T.shape == (20,) and packed.routing.mask_T.all()
    assert model.prefill_packed(ids, BOUNDS, Request("none")).logits_BSV is None
    after = model.decode(prompts()[:, 0], Request()).logits_BSV
    for start, end in zip(BOUNDS[:-1], BOUNDS[1:]):
        model.reset()
        alone = model.prefill(ids[None, start:end], np.array([end - start]), ALL)
        assert_same_maths(packed.logits_BSV[0, start:end], alone.logits_BSV[0], config)
        assert np.array_equal(np.sort(packed.routing.topk_ids_LTK[:, start:end]), np.sort(alone.routing.topk_ids_LTK))
    assert_same_maths(last[0], packed.logits_BSV[0, BOUNDS[1:] - 1], config)
    model.reset()
    model.prefill(prompts(), full(prompts()), Request("none"))
    assert model.decode(prompts()[:, 0], Request()).logits_BSV.tobytes() == after.tobytes()


@pytest.mark.parametrize("name, options", BACKENDS)
def test_packed_sequences_do_not_leak(tmp_path: Path, name: str, options: dict[str, str]):
    """With the routing pinned, so that the experts' products keep their shapes, other neighbours change no bit; an own token does."""
    model, config = load(tmp_path, "qwen3_moe", name, options=options)
    ids = stream()
    own = model.prefill_packed(ids, BOUNDS, ALL)
    pinned = Request("all", pinned=PinnedRouting(own.routing.topk_ids_LTK, own.routing.topk_weights_LTK))
    expected = model.prefill_packed(ids, BOUNDS, pinned).logits_BSV[0]
    assert expected.tobytes() == own.logits_BSV[0].tobytes()
    for start, end in zip(BOUNDS[:-1], BOUNDS[1:]):
        others = stream(seed=1)
        others[start:end] = ids[start:end]
        got = model.prefill_packed(others, BOUNDS, pinned).logits_BSV[0]
        assert got[start:end].tobytes() == expected[start:end].tobytes()
        assert not np.array_equal(got[:start], expected[:start]) or start == 0
    joined = model.prefill_packed(ids, np.array([0, 8, 20]), pinned).logits_BSV[0]
    assert np.abs(joined[1:] - expected[1:]).max() > 1e-2  # the negative control: with other bounds the sequences do see more


PACKED_ERRORS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, Any]]] = {
    "empty": lambda ids: (ids[:0], np.array([0])),
    "no bounds": lambda ids: (ids, np.array([], np.int64)),
    "float ids": lambda ids: (ids.astype(float), BOUNDS),
    "matrix": lambda ids: (ids[None], BOUNDS),
    "id V": lambda ids: (ids + 96, BOUNDS),
    "id -1": lambda ids: (ids * 0 - 1, BOUNDS),
    "not from 0": lambda ids: (ids, np.array([1, 20])),
    "not to T": lambda ids: (ids, np.array([0, 19])),
    "empty sequence": lambda ids: (ids, np.array([0, 5, 5, 20])),
    "falling": lambda ids: (ids, np.array([0, 9, 5, 20])),
    "float bounds": lambda ids: (ids, BOUNDS.astype(float)),
    "too long": lambda ids: (ids, np.array([0, 1, 20])),
}


@pytest.mark.parametrize("name", ["native", "hf"])
def test_bad_packed_calls_are_refused(tmp_path: Path, name: str):
    model, _ = load(tmp_path, "mixtral", name, max_length=18)
    expected = model.prefill_packed(stream(), BOUNDS, Request("all")).logits_BSV
    for what, change in PACKED_ERRORS.items():
        with pytest.raises(InvalidInput):
            model.prefill_packed(*change(stream()), Request("all"))
            pytest.fail(what)
    with pytest.raises(InvalidInput):
        model.prefill_packed(stream(), BOUNDS, Request("some"))
    with pytest.raises(InvalidInput):
        model.prefill_packed(stream(), BOUNDS, Request(pinned=PinnedRouting(np.zeros((3, 19, 2), np.int64))))
    assert model.prefill_packed(stream(), BOUNDS, Request("all")).logits_BSV.tobytes() == expected.tobytes()


LENGTHS = np.array([12, 5, 9])


def by_formula(model: Any, ids: np.ndarray, labels: np.ndarray, padding: str) -> float:
    """Mean in float64 over each row alone."""
    nats = []
    for row, row_labels, n in zip(ids, labels, LENGTHS):
        row, row_labels = (x[:n] if padding == "right" else x[12 - n :] for x in (row, row_labels))
        model.reset()
        logits = model.prefill(row[None], np.array([n]), Request("all")).logits_BSV[0].astype(np.float64)
        for s in range(1, n):
            if row_labels[s] != -100:
                nats.append(np.logaddexp.reduce(logits[s - 1]) - logits[s - 1, row_labels[s]])
    return float(np.mean(nats))


@pytest.mark.parametrize("name, options", BACKENDS[:3])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_the_mean_cross_entropy(tmp_path: Path, family: str, padding: str, name: str, options: dict[str, str]):
    model, _ = load(tmp_path, family, name, options=options)
    ids, labels = prompts(), prompts(seed=4)
    labels[0, 3:7], labels[2, -1] = -100, -100
    expected = by_formula(model, ids, labels, padding)
    model.reset()
    model.prefill(ids, full(ids), Request("none"))
    loss = model.loss(ids, LENGTHS, labels, padding)
    # A float32 mean of some 20 terms around 5, from logits that differ by roundings: a few units of 2^-24 * 5 each.
    assert isinstance(loss, float) and abs(loss - expected) < 1e-5
    valid = np.arange(12) < LENGTHS[:, None] if padding == "right" else np.arange(12) >= 12 - LENGTHS[:, None]
    elsewhere = np.where(valid, ids, prompts(seed=9)), LENGTHS, np.where(valid, labels, 5), padding
    assert abs(model.loss(*elsewhere) - loss) < 1e-5  # what stands at pads does not count
    assert abs(model.loss(ids, LENGTHS, np.where(labels == labels[0, 1], 7, labels), padding) - loss) > 1e-3
    after = model.decode(ids[:, 0], Request()).logits_BSV
    model.reset()
    model.prefill(ids, full(ids), Request("none"))
    assert model.decode(ids[:, 0], Request()).logits_BSV.tobytes() == after.tobytes()


LOSS_ERRORS: dict[str, Callable[[np.ndarray], tuple[Any, ...]]] = {
    "float labels": lambda ids: (ids, LENGTHS, ids.astype(float)),
    "labels of another shape": lambda ids: (ids, LENGTHS, ids[:, 1:]),
    "label V": lambda ids: (ids, LENGTHS, ids * 0 + 96),
    "label -1": lambda ids: (ids, LENGTHS, ids * 0 - 1),
    "no label left": lambda ids: (ids, LENGTHS, ids * 0 - 100),
    "first labels only": lambda ids: (ids[:, :1], np.ones(3, np.int64), ids[:, :1]),
    "labels at pads only": lambda ids: (ids, np.array([2, 2, 2]), np.where(np.arange(12) < 2, -100, ids)),
    "float ids": lambda ids: (ids.astype(float), LENGTHS, ids),
    "id V": lambda ids: (ids + 96, LENGTHS, ids),
    "too long": lambda ids: (np.tile(ids, 2), LENGTHS + 12, np.tile(ids, 2)),
    "too many rows": lambda ids: (np.tile(ids, (3, 1)), np.tile(LENGTHS, 3), np.tile(ids, (3, 1))),
    "padding": lambda ids: (ids, LENGTHS, ids, "both"),
}


@pytest.mark.parametrize("name", ["native", "hf"])
def test_bad_loss_calls_are_refused(tmp_path: Path, name: str):
    model, _ = load(tmp_path, "mixtral", name, max_length=18, max_batch=4)
    for what, change in LOSS_ERRORS.items():
        with pytest.raises(InvalidInput):
            model.loss(*change(prompts()))
            pytest.fail(what)
    assert np.isfinite(model.loss(prompts(), LENGTHS, prompts()))


def test_losses_of_both_backends_agree_and_have_no_balance_term(tmp_path: Path):
    """Also where config.json asks transformers for router logits, which adds its auxiliary loss."""
    tiny_checkpoint(tmp_path / "plain", "qwen2_moe")
    config = tiny_checkpoint(tmp_path / "asking", "qwen2_moe")
    file = tmp_path / "asking" / "config.json"
    file.write_text(file.read_text().replace("{", '{"output_router_logits": true,', 1))
    models: list[Any] = [
        registry.backend(name).load(str(tmp_path / path), LoadSpec()) for name in ("hf", "native") for path in ("plain", "asking")
    ]
    losses = [model.loss(prompts(), LENGTHS, prompts()) for model in models]
    assert max(losses) - min(losses) < 1e-6 * config.vocab_size


def poisoned(path: Path, family: str, token: int) -> None:
    """A checkpoint whose embedding of one token is NaN."""
    tiny_checkpoint(path, family)
    with Checkpoint(path) as checkpoint:
        tensors = {p.source: np.array(checkpoint.source(p.source)) for p in checkpoint.layout}
    tensors["model.embed_tokens.weight"][token] = np.nan
    (path / "model.safetensors").unlink()
    write_tensors(path, {name: array.nbytes for name, array in tensors.items()}, tensors.__getitem__)


@pytest.mark.parametrize("token", [0, 50])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "dots1"])
def test_a_nan_at_a_pad_stays_there(tmp_path: Path, family: str, padding: str, token: int):
    """Ragged prefill, a ragged second chunk and decode, bit for bit as with another token at the pads. Token 0 is also what pads become."""
    assert "nan_pads" in registry.backend("native").capabilities().features
    poisoned(tmp_path / "nan", family, token)
    model: Any = registry.backend("native").load(str(tmp_path / "nan"), LoadSpec())
    ids = np.where(prompts() == token, 3, prompts())
    runs = []
    for pad in (token, 7):
        model.reset()
        outputs = []
        for lengths in (LENGTHS, np.array([1, 12, 4])):
            valid = np.arange(12) < lengths[:, None] if padding == "right" else np.arange(12) >= 12 - lengths[:, None]
            out = model.prefill(np.where(valid, ids, pad), lengths, Request("all", routing=True, padding=padding))
            outputs += [out.logits_BSV[valid], out.routing.topk_weights_LTK[:, valid.ravel()]]
        runs.append([*outputs, model.decode(ids[:, 0], Request()).logits_BSV])
    assert all(np.isfinite(x).all() for x in runs[0])
    assert all(np.array_equal(a, b) for a, b in zip(*runs))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hf_does_not_declare_what_transformers_does_not_do(tmp_path: Path, attention: str):
    assert "nan_pads" not in registry.backend("hf").capabilities().features
    poisoned(tmp_path / "nan", "mixtral", 50)
    model: Any = registry.backend("hf").load(str(tmp_path / "nan"), LoadSpec(options={"attention": attention}))
    ids = np.where(np.arange(12) >= 12 - LENGTHS[:, None], np.where(prompts() == 50, 3, prompts()), 50)
    assert np.isnan(model.prefill(ids, LENGTHS, Request(padding="left")).logits_BSV[1:]).any()
