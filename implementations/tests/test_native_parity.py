"""The native backend against the transformers library: the same checkpoint, the same tokens, float32 on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import numpy as np
import pytest

from moe_harness.implementations.interface import GenerationSpec, LoadSpec, PinnedRouting, Request, RoutingSpec
from moe_harness.implementations.native import cache
from moe_harness.implementations.native.backend import backend
from moe_harness.implementations.tests.tiny import tiny_checkpoint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.transformers

# Two float32 programs that sum in different orders. Three layers put about 30 roundings of 2^-24 one after the other on the residual
# path; a bound of 64 supposes that they all add up, and leaves a factor of two. `test_the_bound_sees_small_defects` is its other side.
BOUND = 64 * 2.0**-24
LENGTHS = np.array([11, 20, 6])

CASES: Dict[str, Tuple[str, Dict[str, Any]]] = {
    "mixtral": ("mixtral", {}),
    "mixtral-window": ("mixtral", dict(sliding_window=5)),
    "mixtral-top1-tied": ("mixtral", dict(top_k=1, tie_word_embeddings=True, stored_head=False)),
    "mixtral-head_dim": ("mixtral", dict(head_dim=16)),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3_moe-bias-window": ("qwen3_moe", dict(attention_bias=tuple("qkvo"), sliding_window=7, normalize_topk=False)),
    "qwen3_moe-tied": ("qwen3_moe", dict(tie_word_embeddings=True)),
    "qwen2_moe": ("qwen2_moe", {}),
    "olmoe": ("olmoe", {}),
    "dots1": ("dots1", {}),
    "dots1-one-group-unscaled": ("dots1", dict(num_groups=1, top_groups=1, scaling_factor=1.0, normalize_topk=False)),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, tmp_path_factory) -> Iterator[Tuple[Any, Any, Path]]:
    """(transformers model, native model, checkpoint)."""
    path = tmp_path_factory.mktemp("parity") / "model"
    family, overrides = CASES[request.param]
    tiny_checkpoint(path, family, **overrides)
    reference = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model = backend().load(str(path), LoadSpec(max_batch=3, max_length=48))
    yield reference, model, path
    model.close()


@pytest.fixture(autouse=True)
def empty_cache(request):
    if "pair" in request.fixturenames:
        request.getfixturevalue("pair")[1].reset()


def tokens(B: int = 3, S: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 96, (B, S))


def reference_logits(reference, ids: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    mask = torch.ones(ids.shape, dtype=torch.long) if valid is None else torch.from_numpy(valid.astype(np.int64))
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return reference(torch.from_numpy(ids), attention_mask=mask, position_ids=positions).logits.numpy()


def worst(observed: np.ndarray, expected: np.ndarray) -> float:
    """Relative RMS error of the worst token."""
    error = np.sqrt(((observed - expected) ** 2).mean(-1) / (expected**2).mean(-1))
    return float(error.max())


def padded(side: str) -> Tuple[np.ndarray, np.ndarray]:
    """(ids, valid) of a ragged batch."""
    column = np.arange(20)[None]
    valid = column < LENGTHS[:, None] if side == "right" else column >= 20 - LENGTHS[:, None]
    return np.where(valid, tokens(), 0), valid


def test_prefill(pair):
    reference, model, _ = pair
    observed = model.prefill(tokens(), np.full(3, 20), Request(logits="all")).logits_BSV
    assert observed.shape == (3, 20, 96) and observed.dtype == np.float32
    assert worst(observed, reference_logits(reference, tokens())) < BOUND


@pytest.mark.parametrize("rows", [2, 6, 20])
def test_blocks_of_queries(pair, monkeypatch, rows):
    """Attention in several blocks, of which the last may be short, without pads and with; then a second chunk after the first."""
    monkeypatch.setattr(cache, "CPU_ROWS", rows)
    reference, model, _ = pair
    expected = reference_logits(reference, tokens())
    first = model.prefill(tokens()[:, :13], np.full(3, 13), Request(logits="all")).logits_BSV
    second = model.prefill(tokens()[:, 13:], np.full(3, 7), Request(logits="all")).logits_BSV
    assert worst(np.concatenate((first, second), 1), expected) < BOUND
    model.reset()
    ids, valid = padded("left")
    ragged = model.prefill(ids, LENGTHS, Request(logits="all", padding="left")).logits_BSV
    assert worst(ragged[valid], reference_logits(reference, ids, valid)[valid]) < BOUND


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(pair, side):
    reference, model, _ = pair
    ids, valid = padded(side)
    expected = reference_logits(reference, ids, valid)
    observed = model.prefill(ids, LENGTHS, Request(logits="all", padding=side)).logits_BSV
    assert worst(observed[valid], expected[valid]) < BOUND


@pytest.mark.parametrize("side", ["left", "right"])
def test_chunks_and_decode_equal_one_forward(pair, side):
    """A ragged prefill, a ragged second chunk and ten tokens one by one, against each row's whole sequence alone."""
    reference, model, _ = pair
    ids, valid = padded(side)
    more, more_lengths = tokens(seed=1)[:, :4], np.array([4, 1, 3])
    chunk = more if side == "right" else np.stack([np.roll(row, 4 - n) for row, n in zip(more, more_lengths, strict=True)])
    tail = tokens(seed=2)[:, :10]
    model.prefill(ids, LENGTHS, Request(logits="none", padding=side))
    observed = [model.prefill(chunk, more_lengths, Request(padding=side)).logits_BSV[:, 0]]
    observed += [model.decode(tail[:, i], Request()).logits_BSV[:, 0] for i in range(10)]
    for b in range(3):
        row = np.concatenate((ids[b, valid[b]], more[b, : more_lengths[b]], tail[b]))
        expected = reference_logits(reference, row[None])[0, -11:]
        assert worst(np.stack(observed)[:, b], expected) < BOUND


def test_routing(pair):
    reference, model, _ = pair
    routing = model.prefill(tokens(), np.full(3, 20), Request(logits="none", routing=True)).routing
    seen: list[Any] = []
    hooks = [
        reference.model.layers[i].mlp.gate.register_forward_hook(lambda _, args, out: seen.append(out)) for i in model.config.moe_layers
    ]
    reference_logits(reference, tokens())
    [hook.remove() for hook in hooks]
    logits, weights, ids = (torch.stack(parts).detach() for parts in zip(*seen, strict=True))
    assert routing.router_logits_LTE.shape == logits.shape and worst(routing.router_logits_LTE, logits.numpy()) < BOUND
    order, theirs = (torch.argsort(torch.as_tensor(x), dim=-1) for x in (routing.topk_ids_LTK, ids))
    assert np.array_equal(np.sort(routing.topk_ids_LTK, axis=-1), ids.gather(-1, theirs).numpy())
    # Softmax turns an absolute error of the logits (|logit| < 32) into a relative one of the weights.
    observed = torch.from_numpy(routing.topk_weights_LTK).gather(-1, order)
    assert np.allclose(observed, weights.gather(-1, theirs).numpy(), rtol=32 * BOUND, atol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_greedy_generation(pair, side):
    """transformers generates each row alone, which leaves its own padding out of the question."""
    reference, model, _ = pair
    ids, valid = padded(side)
    observed = model.generate(ids, LENGTHS, GenerationSpec(max_new_tokens=12), side)
    for b, new in enumerate(observed):
        with torch.no_grad():
            prompt = torch.from_numpy(ids[b, valid[b]][None])
            whole = reference.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
        assert new == whole[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("options", [{"pack": "false"}, {"experts": "grouped"}, {"pack": "false", "experts": "loop"}], ids=str)
def test_every_option_computes_the_same(pair, options):
    reference, _, path = pair
    model = backend().load(str(path), LoadSpec(max_batch=3, max_length=48, options=options))
    observed = model.prefill(tokens(), np.full(3, 20), Request(logits="all")).logits_BSV
    assert worst(observed, reference_logits(reference, tokens())) < BOUND


@pytest.mark.parametrize(
    "family, change",
    [
        ("mixtral", dict(sliding_window=19)),
        ("mixtral", dict(rope_theta=10010.0)),
        ("mixtral", dict(rms_norm_eps=5e-5)),
        ("qwen3_moe", dict(normalize_topk=False)),
        ("dots1", dict(scaling_factor=2.501)),
        ("dots1", dict(top_groups=3)),
    ],
    ids=str,
)
def test_the_bound_sees_small_defects(tmp_path, family, change):
    """The negative control: one config field a little off must show. The same weights, read with another config."""
    tiny_checkpoint(tmp_path / "right", family)
    tiny_checkpoint(tmp_path / "wrong", family, **change)
    outputs = []
    for name in ("right", "wrong"):
        model = backend().load(str(tmp_path / name), LoadSpec(max_batch=3, max_length=32))
        outputs.append(model.prefill(tokens(), np.full(3, 20), Request(logits="all")).logits_BSV)
    assert worst(outputs[1], outputs[0]) > BOUND


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_low_precision_is_as_good_as_theirs(tmp_path, family, dtype):
    """One MoE block on the same experts, error against the same block in float64. Twice theirs allows for where each of the two rounds."""
    config = tiny_checkpoint(tmp_path / "model", family, dtype="bfloat16")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=getattr(torch, dtype)).eval()
    exact = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64).eval()
    exact.set_experts_implementation("eager")
    x = torch.randn(64, config.hidden_size, generator=torch.Generator().manual_seed(0)).bfloat16()
    blocks = [r.model.layers[0].mlp for r in (reference, exact)]
    with torch.no_grad():
        _, _, ids = blocks[0].gate(x.to(getattr(torch, dtype)))
        weights = exact_weights(blocks[1], x.double(), ids, config.routing)
        theirs = blocks[0].experts(x.to(getattr(torch, dtype)), ids, weights.to(torch.float32).to(getattr(torch, dtype))).double().numpy()
        right = blocks[1].experts(x.double(), ids, weights).numpy()
    model: Any = backend().load(str(tmp_path / "model"), LoadSpec(dtype=dtype, max_batch=1, max_length=8))
    ours = model.moe_block(0, x.float().numpy(), PinnedRouting(ids.numpy()[None]))
    assert 0 < rms(ours - right) <= 2 * rms(theirs - right)


def exact_weights(block, x, ids, routing: RoutingSpec):
    weights = (x @ block.gate.weight.T).softmax(-1).gather(1, ids)
    return weights / weights.sum(-1, keepdim=True) if routing.normalize_topk else weights


def rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))
