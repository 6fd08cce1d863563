"""The hf backend's forward pass: kernels, padding, cache, bad input, loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch  # noqa: E402

from moe_harness.implementations import families  # noqa: E402
from moe_harness.implementations.common.torch import memory  # noqa: E402
from moe_harness.implementations.interface import InvalidInput, Request, Unsupported
from moe_harness.implementations.tests.tiny_hf import ALL, assert_same_maths, full, load, one_thread, prompts  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILIES = sorted(families.families())
WINDOWED = [family for family in FAMILIES if "sliding_window" in families.family(family).free]
LENGTHS = np.array([12, 5, 9])


@pytest.mark.parametrize("family", FAMILIES)
def test_expert_kernels_agree(tmp_path: Path, family: str):
    ids = prompts()
    outputs = {}
    for name in ("hf", "hf:eager", "hf:batched_mm", "hf:grouped_mm"):
        model, config = load(tmp_path, family, name)
        assert model._module.config._experts_implementation == (name.partition(":")[2] or "eager")  # the variant reached transformers
        outputs[name] = model.prefill(ids, full(ids), ALL)
    for output in outputs.values():
        assert_same_maths(output.logits_BSV, outputs["hf"].logits_BSV, config)
        assert np.array_equal(output.routing.topk_ids_LTK, outputs["hf"].routing.topk_ids_LTK)
    assert outputs["hf"].logits_BSV.tobytes() == outputs["hf:eager"].logits_BSV.tobytes()


def test_attention_option_reaches_transformers(tmp_path: Path):
    ids = prompts()
    (sdpa, config), (eager, _) = load(tmp_path), load(tmp_path, options={"attention": "eager"})
    assert sdpa._module.config._attn_implementation == "sdpa" and eager._module.config._attn_implementation == "eager"
    assert_same_maths(eager.prefill(ids, full(ids), ALL).logits_BSV, sdpa.prefill(ids, full(ids), ALL).logits_BSV, config)


@pytest.mark.parametrize("padding, attention", [("left", "sdpa"), ("right", "sdpa"), ("right", "eager")])
@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_rows_equal_rows_alone(tmp_path: Path, family: str, padding: str, attention: str):
    """Prefill, a ragged second chunk and a decode step; `all` and `last`."""
    model, config = load(tmp_path, family, options={"attention": attention})
    ids, more, lengths = prompts(), prompts(S=4, seed=1), np.array([2, 4, 1])
    request, last = Request("all", padding=padding), Request("last", padding=padding)
    first = model.prefill(ids, LENGTHS, request).logits_BSV
    second = model.prefill(more, lengths, last).logits_BSV
    third = model.decode(ids[:, 0], last).logits_BSV
    assert second.shape == third.shape == (3, 1, config.vocab_size)
    for b in range(3):
        own, own_more = valid(ids[b], LENGTHS[b], padding), valid(more[b], lengths[b], padding)
        model.reset()
        assert_same_maths(valid(first[b], LENGTHS[b], padding), model.prefill(own[None], full(own[None]), request).logits_BSV[0], config)
        assert_same_maths(second[b], model.prefill(own_more[None], full(own_more[None]), last).logits_BSV[0], config)
        assert_same_maths(third[b], model.decode(ids[b : b + 1, 0], last).logits_BSV[0], config)


def valid(row: np.ndarray, length: int, padding: str) -> np.ndarray:
    return row[:length] if padding == "right" else row[len(row) - length :]


@pytest.mark.parametrize("family, window", [(family, None) for family in FAMILIES] + [(family, w) for family in WINDOWED for w in (2, 5)])
def test_chunks_and_decode_equal_the_whole(tmp_path: Path, family: str, window: int | None):
    model, config = load(tmp_path, family, sliding_window=window)
    ids = prompts()
    whole = model.prefill(ids, full(ids), ALL).logits_BSV
    model.reset()
    parts = [model.prefill(chunk, full(chunk), ALL).logits_BSV for chunk in (ids[:, :4], ids[:, 4:9])]
    parts += [model.decode(ids[:, t], ALL).logits_BSV for t in range(9, 12)]
    assert_same_maths(np.concatenate(parts, axis=1), whole, config)


def test_window_changes_the_logits(tmp_path: Path):
    """So that the test above would see a window that is ignored."""
    ids = prompts()
    (wide, _), (narrow, _) = load(tmp_path), load(tmp_path, sliding_window=5)
    difference = np.abs(wide.prefill(ids, full(ids), ALL).logits_BSV - narrow.prefill(ids, full(ids), ALL).logits_BSV).max(axis=(0, 2))
    assert (difference[:5] < 1e-4).all() and (difference[5:] > 1e-2).all()


def test_window_with_pads_in_the_middle_is_unsupported_and_left_padding_is_not(tmp_path: Path):
    model, config = load(tmp_path, sliding_window=14)
    ids = prompts()
    for padding in ("right", "left"):
        model.reset()
        model.prefill(ids, LENGTHS, Request(padding=padding))
        for t in range(2):  # 14 slots: the window still holds all of them
            model.decode(ids[:, t], Request())
        if padding == "right":
            with pytest.raises(Unsupported, match="window of 14"):
                model.decode(ids[:, 2], Request())
        else:
            got = model.decode(ids[:, 2], Request()).logits_BSV
    for b in range(3):
        model.reset()
        row = np.concatenate([ids[b, 12 - LENGTHS[b] :], ids[b, :3]])[None]
        assert_same_maths(got[b], model.prefill(row, full(row), Request()).logits_BSV[0], config)


def test_window_of_one_is_unsupported_beyond_one_chunk(tmp_path: Path):
    model, _ = load(tmp_path, sliding_window=1)
    ids = prompts()
    model.prefill(ids, full(ids), Request())
    with pytest.raises(Unsupported, match="window of 1"):
        model.decode(ids[:, 0], Request())


def test_last_is_the_last_of_all_and_none_is_none(tmp_path: Path):
    model, config = load(tmp_path)
    ids = prompts()
    everything = model.prefill(ids, LENGTHS, Request("all")).logits_BSV
    model.reset()
    last = model.prefill(ids, LENGTHS, Request("last")).logits_BSV
    assert everything.dtype == last.dtype == np.float32 and everything.flags.c_contiguous and last.flags.c_contiguous
    assert_same_maths(last[:, 0], everything[np.arange(3), LENGTHS - 1], config)
    model.reset()
    assert model.prefill(ids, LENGTHS, Request("none")).logits_BSV is None
    assert model.decode(ids[:, 0], Request("none")).logits_BSV is None
    assert model.decode(ids[:, 0], Request("all")).logits_BSV.shape == (3, 1, config.vocab_size)


@pytest.mark.parametrize("family, name", [("mixtral", "hf"), ("qwen3_moe", "hf:batched_mm"), ("dots1", "hf:grouped_mm")])
def test_reset_is_bit_equal_to_a_fresh_load(tmp_path: Path, family: str, name: str):
    model, _ = load(tmp_path, family, name)
    ids = prompts()

    def run() -> bytes:
        return model.prefill(ids, LENGTHS, ALL).logits_BSV.tobytes() + model.decode(ids[:, 0], ALL).logits_BSV.tobytes()

    fresh = run()
    model.prefill(prompts(seed=3), full(ids), ALL)
    model.reset()
    assert run() == fresh


def test_content_of_pads_does_not_matter(tmp_path: Path):
    model, _ = load(tmp_path, name="hf:batched_mm")  # one product per token: the eager kernel's shapes follow where pads are routed
    ids, others = prompts(), prompts(seed=5)
    mixed = np.where(np.arange(12) < LENGTHS[:, None], ids, others)
    first = model.prefill(ids, LENGTHS, Request()).logits_BSV
    model.reset()
    assert model.prefill(mixed, LENGTHS, Request()).logits_BSV.tobytes() == first.tobytes()


def bad_calls() -> dict[str, Any]:
    ids, lengths, request = prompts(), np.array([12, 12, 12]), Request()
    above, below = ids.copy(), ids.copy()
    above[1, 3], below[2, 11] = 96, -1
    return {
        "no positions": lambda m: m.prefill(ids[:, :0], lengths * 0, request),
        "no rows": lambda m: m.prefill(ids[:0], lengths[:0], request),
        "one dimension": lambda m: m.prefill(ids[0], lengths, request),
        "floats": lambda m: m.prefill(ids.astype(float), lengths, request),
        "id V": lambda m: m.prefill(above, lengths, request),
        "id -1": lambda m: m.prefill(below, lengths, request),
        "length 0": lambda m: m.prefill(ids, np.array([12, 0, 3]), request),
        "length S+1": lambda m: m.prefill(ids, np.array([12, 13, 3]), request),
        "lengths of another batch": lambda m: m.prefill(ids, lengths[:2], request),
        "another batch": lambda m: m.prefill(ids[:2], lengths[:2], request),
        "decode another batch": lambda m: m.decode(ids[:2, 0], request),
        "decode id V": lambda m: m.decode(above[:, 3], request),
        "decode two dimensions": lambda m: m.decode(ids, request),
        "too long": lambda m: m.prefill(prompts(S=21), lengths + 9, request),
        "padding": lambda m: m.prefill(ids, lengths, Request(padding="both")),
        "logits": lambda m: m.prefill(ids, lengths, Request("some")),
    }


@pytest.mark.parametrize("what", bad_calls())
def test_bad_call_is_rejected_and_changes_nothing(tmp_path: Path, what: str):
    model, _ = load(tmp_path, max_length=32)
    ids = prompts()
    model.prefill(ids, full(ids), ALL)
    expected = model.decode(ids[:, 0], ALL)
    model.reset()
    model.prefill(ids, full(ids), ALL)
    with pytest.raises(InvalidInput):
        bad_calls()[what](model)
    assert model.decode(ids[:, 0], ALL).logits_BSV.tobytes() == expected.logits_BSV.tobytes()


def test_bad_order_and_limits(tmp_path: Path):
    model, _ = load(tmp_path, max_length=13, max_batch=3)
    ids = prompts()
    with pytest.raises(InvalidInput, match="before any prefill"):
        model.decode(ids[:, 0], Request())
    with pytest.raises(InvalidInput, match="max_batch 3"):
        model.prefill(prompts(B=4), full(prompts(B=4)), Request())
    model.prefill(ids, full(ids), Request())
    model.decode(ids[:, 0], Request())
    with pytest.raises(InvalidInput, match="max_length 13"):
        model.decode(ids[:, 0], Request())
    model.reset()
    with pytest.raises(InvalidInput, match="before any prefill"):
        model.decode(ids[:, 0], Request())


def test_failure_inside_transformers_empties_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cache that some layers have written and others not would give plausible, wrong logits."""
    model, _ = load(tmp_path)
    ids = prompts()
    fresh = model.prefill(ids, full(ids), ALL).logits_BSV
    with monkeypatch.context() as patch:
        patch.setattr(model._module.model.layers[1], "forward", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.decode(ids[:, 0], ALL)
    with pytest.raises(InvalidInput, match="before any prefill"):
        model.decode(ids[:, 0], ALL)
    assert model.prefill(ids, full(ids), ALL).logits_BSV.tobytes() == fresh.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_dtype_is_the_one_asked_for(tmp_path: Path, family: str, dtype: str):
    model, config = load(tmp_path, family, dtype=dtype)
    ids = prompts()
    assert {str(p.dtype) for p in model._module.parameters()} == {f"torch.{dtype}"}
    corrections = [buffer for name, buffer in model._module.named_buffers() if name.endswith("correction_bias")]
    assert len(corrections) == (len(config.moe_layers) if config.routing.correction_bias else 0)
    assert all(buffer.dtype == torch.float32 and buffer.abs().min() > 0 for buffer in corrections)
    assert np.isfinite(model.prefill(ids, LENGTHS, Request("all", padding="left")).logits_BSV).all()
    capabilities = model.capabilities()
    assert (capabilities.architecture, capabilities.num_experts, capabilities.experts_per_token, capabilities.norm_topk_prob) == (
        config.architecture,
        config.routing.num_experts,
        config.routing.top_k,
        config.routing.normalize_topk,
    )
    assert capabilities.head_dim_override == (config.head_dim * 4 != 32) and capabilities.sliding_window is None
    assert capabilities.is_moe and not capabilities.is_quantized


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["hf", "hf:batched_mm", "hf:grouped_mm"])
def test_cuda_agrees_with_cpu(tmp_path: Path, family: str, name: str):
    ids = prompts()
    (cpu, config), (cuda, _) = load(tmp_path, family, name), load(tmp_path, family, name, device="cuda")
    for padding in ("left", "right"):
        expected = [cpu.prefill(ids, LENGTHS, Request(padding=padding)), cpu.decode(ids[:, 0], Request())]
        got = [cuda.prefill(ids, LENGTHS, Request(padding=padding)), cuda.decode(ids[:, 0], Request())]
        for a, b in zip(got, expected):
            assert_same_maths(a.logits_BSV, b.logits_BSV, config)
        cpu.reset(), cuda.reset()


def test_batched_mm_refuses_what_would_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):

    model, config = load(tmp_path, name="hf:batched_mm")
    x_TD = np.zeros((3, config.hidden_size), np.float32)
    assert model.moe_block(0, x_TD).shape == x_TD.shape
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(Unsupported, match="3 tokens"):
        model.moe_block(0, x_TD)
