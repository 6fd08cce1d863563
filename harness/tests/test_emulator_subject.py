"""The honest subject computes the formulas, continues, pads, converts and stops as the contract says, and refuses what it forbids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moe_harness.cases.synthetic import synthesize
from moe_harness.emulator.subject import SubjectModel
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.interface import (  # fmt: skip
    CheckpointError,
    GenerationSpec,
    InvalidInput,
    LoadSpec,
    PinnedRouting,
    Probe,
    Request,
    Unsupported,
)
from moe_harness.mutants.catalogue import backend
from moe_harness.suite.subject import Workshop
from moe_harness.tests.mutants_formula import naive_logits, naive_moe
from moe_harness.tests.mutants_models import ALL, CONFIGS, FAMILIES, ROUNDING, base_config, distance, full, load, prompts


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    return Workshop(tmp_path_factory.mktemp("faults")).once


@pytest.fixture(params=CONFIGS, ids=lambda name: name.replace(" ", "-"))
def model(request, once) -> SubjectModel:
    return load(once, CONFIGS[request.param])


def test_it_declares_what_it_has(model: SubjectModel):
    assert isinstance(model, Probe)
    assert backend().capabilities().execution == "emulated" and backend().capabilities().reads_hf
    declared = model.capabilities()
    assert (declared.num_experts, declared.experts_per_token) == (model.config.routing.num_experts, model.config.routing.top_k)
    assert declared.head_dim_override == (model.config.head_dim * 8 != 64) and declared.sliding_window == model.config.sliding_window


def test_decode_and_chunks_continue_what_prefill_began(model):
    ids_BS = prompts(model, 2, 14)
    expected = full(model, ids_BS)
    for cut in (1, 5, 13):
        model.reset()
        parts = [model.prefill(ids_BS[:, :cut], np.full(2, cut), ALL).logits_BSV]
        parts += [model.decode(ids_BS[:, i], Request()).logits_BSV for i in range(cut, 10)] if cut < 10 else []
        cut = max(cut, 10)
        parts += [model.prefill(ids_BS[:, cut:], np.full(2, 14 - cut), ALL).logits_BSV]
        assert distance(np.concatenate(parts, axis=1), expected) < ROUNDING


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_equals_itself_alone(model, side):
    lengths_B, long_BS = np.array([11, 4, 7]), prompts(model, 3, 14)
    padded_BS = np.full((3, 11), model.config.pad_token_id)
    for row, length in enumerate(lengths_B):
        padded_BS[row, 11 - length if side == "left" else 0 :][:length] = long_BS[row, :length]
    last = [model.prefill(padded_BS, lengths_B, Request(padding=side)).logits_BSV]
    last += [model.decode(long_BS[np.arange(3), lengths_B + step], Request()).logits_BSV for step in range(3)]
    for row, length in enumerate(lengths_B):
        alone = full(model, long_BS[row : row + 1, : length + 3])[0, length - 1 :]
        assert distance(np.stack([output[row, 0] for output in last]), alone) < ROUNDING


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_low_precision_stays_close(once, family, dtype, bound):
    """Pinned to float32's routes, so that no flip hides the rounding. Some 40 roundings of at most `bound` add up like a random walk, to
    6.3 of them; far less would mean that something is not rounded."""
    config = replace(base_config(family), dtype="bfloat16")
    exact, rounded = load(once, config), load(once, config, dtype)
    ids_BS, lengths_B = prompts(exact, 2, 24), np.full(2, 24)
    truth = exact.prefill(ids_BS, lengths_B, Request(logits="all", routing=True))
    assert truth.routing is not None and truth.logits_BSV is not None
    pinned = PinnedRouting(truth.routing.topk_ids_LTK, truth.routing.topk_weights_LTK)
    found = rounded.prefill(ids_BS, lengths_B, Request(logits="all", pinned=pinned)).logits_BSV
    assert found is not None
    relative_rms = np.sqrt(np.mean((found - truth.logits_BSV) ** 2) / np.mean(truth.logits_BSV**2))
    assert bound / 16 < relative_rms < bound * np.sqrt(40)


def test_reset_and_repeat_is_bit_equal(model):
    ids_BS = prompts(model, 3, 13)
    first = full(model, ids_BS).tobytes()
    assert full(model, ids_BS).tobytes() == first
    full(model, prompts(model, 2, 7))
    assert full(model, ids_BS).tobytes() == first


def test_the_model_is_the_formula(model):
    ids_BS = prompts(model, 2, 11)
    assert distance(full(model, ids_BS), np.stack([naive_logits(model, ids_S) for ids_S in ids_BS])) < ROUNDING


def test_the_moe_block_is_the_formula(model):
    x_TD = np.random.default_rng(1).standard_normal((20, 64), np.float32)
    expected = np.stack([naive_moe(model, model.config.moe_layers[-1], x) for x in x_TD.astype(np.float64)])
    assert distance(model.moe_block(len(model.config.moe_layers) - 1, x_TD), expected) < ROUNDING


def test_pinning_its_own_routes_changes_nothing(model):
    x_TD = np.random.default_rng(2).standard_normal((9, 64), np.float32)
    kept, y_TD = x_TD.copy(), model.moe_block(0, x_TD)
    routing = model.route(0, x_TD)
    for weights in (None, routing.topk_weights_LTK):
        assert model.moe_block(0, x_TD, PinnedRouting(routing.topk_ids_LTK, weights)).tobytes() == y_TD.tobytes()
    assert x_TD.tobytes() == kept.tobytes()
    assert model.moe_block(0, x_TD[:0]).shape == (0, 64)
    assert model.route(0, x_TD[:0]).topk_ids_LTK.shape == (1, 0, model.config.routing.top_k)


@pytest.mark.parametrize("name", CONFIGS)
def test_conversion_is_bit_exact_and_loads_alike(once, tmp_path, name):
    config = CONFIGS[name]
    source = once(f"{config}", lambda dst: synthesize(config, dst, 1, router_scale=2.0))
    backend().from_hf(str(source), str(tmp_path / "own"))
    backend().to_hf(str(tmp_path / "own"), str(tmp_path / "back"))
    with Checkpoint(source) as before, Checkpoint(tmp_path / "back") as after:
        assert before.layout == after.layout and before.raw_config == after.raw_config
        assert all(before.source(p.source).tobytes() == after.source(p.source).tobytes() for p in before.layout)
    models = [backend().load(str(path), LoadSpec(config.dtype)) for path in (source, tmp_path / "own")]
    a, b = (full(each, prompts(each, 2, 9)).tobytes() for each in models)
    assert a == b


def test_conversion_refuses_what_it_does_not_know(once, tmp_path):
    source = once(f"{CONFIGS['mixtral']}", lambda dst: synthesize(CONFIGS["mixtral"], dst, 1, router_scale=2.0))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(CheckpointError, match="already exists"):
        backend().from_hf(str(source), str(tmp_path / "taken"))
    with pytest.raises(CheckpointError, match="from_hf"):
        backend().to_hf(str(source), str(tmp_path / "back"))


TWO, ZERO = np.array([[1, 2, 3], [4, 5, 6]]), np.zeros((1, 64), np.float32)
BAD_CALLS = {
    "empty prompt": lambda m: m.prefill(TWO[:, :0], np.array([0, 0]), ALL),
    "no rows": lambda m: m.prefill(TWO[:0], np.zeros(0, int), ALL),
    "floats": lambda m: m.prefill(TWO + 0.5, np.array([3, 3]), ALL),
    "one dimension": lambda m: m.prefill(TWO[0], np.array([3]), ALL),
    "id V": lambda m: m.prefill(np.where(TWO == 6, 272, TWO), np.array([3, 3]), ALL),
    "id -1": lambda m: m.prefill(np.where(TWO == 6, -1, TWO), np.array([3, 3]), ALL),
    "length 0": lambda m: m.prefill(TWO, np.array([0, 3]), ALL),
    "length 4": lambda m: m.prefill(TWO, np.array([3, 4]), ALL),
    "one length": lambda m: m.prefill(TWO, np.array([3]), ALL),
    "too long": lambda m: m.prefill(np.ones((2, 17), int), np.array([3, 3]), ALL),
    "other batch": lambda m: m.prefill(TWO[:1], np.array([3]), ALL),
    "too many rows": lambda m: (m.reset(), m.prefill(np.ones((4, 2), int), np.full(4, 2), ALL)),
    "other batch in decode": lambda m: m.decode(np.array([1]), ALL),
    "full cache": lambda m: [m.decode(np.array([1, 1]), Request(logits="none")) for _ in range(14)],
    "before prefill": lambda m: (m.reset(), m.decode(np.array([1]), ALL)),
    "logits option": lambda m: m.prefill(TWO, np.array([3, 3]), Request(logits="some")),
    "padding option": lambda m: m.prefill(TWO, np.array([3, 3]), Request(padding="both")),
    "pinned shape": lambda m: m.prefill(TWO, np.array([3, 3]), Request(pinned=PinnedRouting(np.zeros((2, 5, 3), int)))),
    "pinned id": lambda m: m.prefill(TWO, np.array([3, 3]), Request(pinned=PinnedRouting(np.full((2, 6, 3), 12)))),
    "pinned NaN": lambda m: m.moe_block(0, ZERO, PinnedRouting(np.zeros((1, 1, 3), int), np.full((1, 1, 3), np.nan))),
    "layer": lambda m: m.route(2, ZERO),
    "columns": lambda m: m.route(0, np.zeros((1, 63), np.float32)),
    "float64": lambda m: m.route(0, np.zeros((1, 64))),
    "not representable": lambda m: m.route(0, np.full((1, 64), 1 / 3, np.float32)),
    "offsets": lambda m: m.prefill_packed(TWO[0], np.array([0, 4]), ALL),
    "label": lambda m: m.loss(TWO, np.array([3, 3]), TWO + 270),
    "too many new tokens": lambda m: m.generate(TWO, np.array([3, 3]), GenerationSpec(15)),
    "top_p": lambda m: m.generate(TWO, np.array([3, 3]), GenerationSpec(2, top_p=0.0)),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_is_refused_and_leaves_the_model_usable(once, name):
    model = load(once, CONFIGS["mixtral"], "bfloat16", max_batch=3, max_length=16)
    expected = full(model, TWO)
    with pytest.raises(InvalidInput):
        BAD_CALLS[name](model)
    assert full(model, TWO).tobytes() == expected.tobytes()


def test_a_bad_load_is_refused(once):
    for error, spec in ((Unsupported, dict(device="cuda")), (Unsupported, dict(dtype="float64")), (InvalidInput, dict(options={"x": "1"}))):
        with pytest.raises(error):
            load(once, CONFIGS["mixtral"], **spec)


def test_generation_stops_each_row_on_its_own(once):
    model = load(once, CONFIGS["mixtral"])
    ids_BS, lengths_B = prompts(model, 2, 8), np.array([8, 3])
    free = model.generate(ids_BS, lengths_B, GenerationSpec(12, eos_token_ids=()))
    assert [len(row) for row in free] == [12, 12]
    for row in range(2):
        alone = model.generate(ids_BS[row : row + 1, : lengths_B[row]], lengths_B[row : row + 1], GenerationSpec(12, eos_token_ids=()))
        assert alone == [free[row]]
    unused = next(i for i in ids_BS[0].tolist() if i not in {*free[0], *free[1]})  # in a prompt, where no EOS stops anything
    stops = (unused, free[0][2], free[1][5])
    ended = model.generate(ids_BS, lengths_B, GenerationSpec(12, eos_token_ids=stops))
    assert ended == [row[: next(i for i, token in enumerate(row) if token in stops) + 1] for row in free]
    with pytest.raises(InvalidInput, match="before any prefill"):
        model.decode(np.array([1, 1]), ALL)


def test_sampling_follows_its_seed_and_its_limits(once):
    model = load(once, CONFIGS["qwen3_moe"])
    ids_BS, lengths_B = prompts(model, 2, 6), np.array([6, 6])
    greedy = model.generate(ids_BS, lengths_B, GenerationSpec(8))
    for limits in (dict(top_k=1), dict(top_p=1e-6)):
        assert model.generate(ids_BS, lengths_B, GenerationSpec(8, temperature=2.0, **limits)) == greedy
    drawn = [model.generate(ids_BS, lengths_B, GenerationSpec(8, temperature=2.0, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
