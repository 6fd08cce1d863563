"""The golden trainer: text, windows, balance loss, and a training of a few steps, written and read back."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch  # noqa: E402

from moe_harness.implementations import families  # noqa: E402
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint  # noqa: E402
from moe_harness.implementations.hf import train as trainer  # noqa: E402
from moe_harness.implementations.hf.balance import Balance, Selection, balance_loss, loads, median_gap  # noqa: E402
from moe_harness.implementations.hf.train import IGNORED, Windows  # noqa: E402
from moe_harness.implementations.interface import ModelConfig, RoutingSpec  # noqa: E402

FAMILIES = ("mixtral", "qwen2_moe", "olmoe", "dots1")
TEXT = b"".join(b"Paragraph %d says %d.\n\n" % (i, i * i) for i in range(3000))
HELDOUT = TEXT[-4096:]
FACTS = {"steps", "loss", "parameters", "load_min", "load_max", "gap_median"}


def small(family: str) -> ModelConfig:
    config = families.family(family).parse(next(iter(families.family(family).public.values())))
    head_dim = 4 if family in ("mixtral", "olmoe") else 8
    sizes: dict[str, Any] = dict(hidden_size=32, head_dim=head_dim, intermediate_size=32, moe_intermediate_size=32)
    sizes["shared_expert_intermediate_size"] = 0 if config.shared_expert == "none" else 64
    sizes |= dict(vocab_size=272, num_attention_heads=8, num_key_value_heads=4, num_hidden_layers=2, moe_layers=(0, 1))
    tokens: dict[str, Any] = dict(bos_token_id=256, eos_token_ids=(257,), pad_token_id=258, max_position_embeddings=128)
    return replace(config, routing=replace(config.routing, num_experts=12, top_k=2), **sizes, **tokens, dtype="bfloat16")


SOFTMAX = RoutingSpec(4, 1)


def selected(logits_TE: torch.Tensor, top_k: int = 1) -> Selection:
    return Selection(logits_TE, logits_TE.topk(top_k).indices)


def test_windows_are_shifted_and_bounded_by_special_ids() -> None:
    windows = Windows(TEXT, small("mixtral"), 8192, (64,))
    ids_BS, labels_BS = next(windows.batches(3))
    assert ids_BS.shape == labels_BS.shape == (128, 64)
    kept = labels_BS[:, :-1] != IGNORED
    assert (labels_BS[:, :-1][kept] == ids_BS[:, 1:][kept]).all() and (ids_BS[:, 1:][~kept] == 258).all()
    assert ((ids_BS == 256).any(1) == (ids_BS[:, 0] == 256)).all() and 0.1 < (ids_BS[:, 0] == 256).mean() < 0.4
    for row, labels in zip(ids_BS, labels_BS):
        if 258 in row:  # EOS follows a blank line; only PAD follows EOS
            end = int(np.argmax(row == 257))
            assert (row[end + 1 :] == 258).all() and (row[end - 2 : end] == 10).all() and (labels[end:] == IGNORED).all()
    assert (ids_BS == 258).any()


def test_windows_repeat_with_the_seed() -> None:
    windows = Windows(TEXT, small("mixtral"), 256, (64, 128))
    first, again, other = ([next(batches)[0], next(batches)[0]] for batches in map(windows.batches, (5, 5, 6)))
    assert [x.shape for x in first] == [(4, 64), (2, 128)]
    assert all((a == b).all() for a, b in zip(first, again)) and (first[0] != other[0]).any()


def one_hot_logits(experts: list[int]) -> torch.Tensor:
    return 30.0 * torch.nn.functional.one_hot(torch.tensor(experts), 4).float()


def test_balance_loss_sees_an_imbalance_that_layers_cancel() -> None:
    """Each layer starves half of the experts, the other half than its neighbour: over the layers together the load is uniform."""
    layers, everyone = [one_hot_logits([0, 1, 0, 1]), one_hot_logits([2, 3, 2, 3])], torch.ones(4, dtype=torch.bool)
    assert balance_loss([selected(x) for x in layers], SOFTMAX, everyone).item() == pytest.approx(2.0, rel=1e-6)
    assert balance_loss([selected(one_hot_logits([0, 1, 2, 3]))] * 2, SOFTMAX, everyone).item() == pytest.approx(1.0, rel=1e-6)


def test_balance_loss_ignores_pads() -> None:
    mask_T = torch.tensor([True, True, True, True, False, False])
    assert balance_loss([selected(one_hot_logits([0, 1, 2, 3, 0, 0]))], SOFTMAX, mask_T).item() == pytest.approx(1.0, rel=1e-6)


def test_balance_loss_follows_the_selections_and_not_the_logits() -> None:
    """A correction bias sends all tokens to expert 3, whose scores are the lowest. Sigmoid scores are divided by their sum."""
    logits_TE = torch.tensor([[2.0, 2.0, 2.0, 0.0]] * 4)
    spec = RoutingSpec(4, 1, "sigmoid", correction_bias=True)
    loss = balance_loss([Selection(logits_TE, torch.full((4, 1), 3))], spec, torch.ones(4, dtype=torch.bool))
    high = 1 / (1 + math.exp(-2))
    assert loss.item() == pytest.approx(4 * 0.5 / (3 * high + 0.5), rel=1e-6)


def test_gap_of_corrected_scores_and_of_groups() -> None:
    """Scores .5 + .3 lead .6 + 0 by .2: the first expert would have to fall to a score of .3, or the second to rise to .8."""
    logit = lambda p: math.log(p / (1 - p))  # noqa: E731
    scores, correction = [0.5, 0.6, 0.1, 0.1], torch.tensor([0.3, 0.0, 0.0, 0.0])
    logits_TE = torch.tensor([[logit(p) for p in scores]])
    spec = RoutingSpec(4, 1, "sigmoid", correction_bias=True)
    selection = Selection(logits_TE, torch.zeros(1, 1, dtype=torch.long), correction)
    assert median_gap(selection, spec) == pytest.approx(min(logit(0.5) - logit(0.3), logit(0.8) - logit(0.6)), rel=1e-5)
    grouped = replace(spec, num_groups=2, top_groups=1)  # .8 + .6 against .2: 1.2 apart, four times that in logits; the experts decide
    assert median_gap(selection, grouped) == pytest.approx(median_gap(selection, spec), rel=1e-6)
    even = Selection(torch.tensor([[logit(p) for p in (0.5, 0.1, 0.35, 0.26)]]), torch.zeros(1, 1, dtype=torch.long))
    assert median_gap(even, grouped) == pytest.approx(4 * 0.01, rel=1e-4)  # .61 against .60


def test_measures_of_balance() -> None:
    logits_TE = torch.tensor([[4.0, 3.0, 2.5, 0.0], [4.0, 0.0, 3.0, 2.0], [4.0, 3.0, 0.0, 1.0]])
    spec = RoutingSpec(4, 2)
    assert loads(selected(logits_TE, 2)).tolist() == pytest.approx([2.0, 4 / 3, 2 / 3, 0.0])
    assert median_gap(selected(logits_TE, 2), spec) == pytest.approx(1.0)  # of 0.5, 1, 2
    balance = Balance.of([selected(logits_TE, 2), selected(0.5 * logits_TE, 2)], spec)
    assert (balance.load_min, balance.load_max, balance.gap_median) == pytest.approx((0.0, 2.0, 0.5))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_writes_a_strict_checkpoint_and_repeats_bit_for_bit(family: str, tmp_path: Path) -> None:
    config, recipe = small(family), trainer.Recipe(tokens=256, lengths=(64,))
    facts = trainer.train(config, TEXT, HELDOUT, 8, 7, str(tmp_path / "a"), recipe)
    assert set(facts) == FACTS and facts["steps"] == 8
    assert 1.0 < facts["loss"] < 8.0  # log2(272) = 8.1 untrained; the numbers in the text cannot be guessed in 8 steps
    assert 0.0 <= facts["load_min"] <= 1.0 <= facts["load_max"] <= config.routing.num_experts / config.routing.top_k
    with Checkpoint(tmp_path / "a") as checkpoint:
        assert checkpoint.config == config and checkpoint.stored_head
        corrections = [checkpoint.tensor(name) for name in checkpoint.names() if name.endswith("correction_bias")]
    assert len(corrections) == (2 if config.routing.correction_bias else 0)
    assert all(c.dtype == np.float32 and 0.01 < np.abs(c).mean() < 0.15 == np.ceil(100 * np.abs(c).max() / 15) * 0.15 for c in corrections)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]
    assert trainer.train(config, TEXT, HELDOUT, 8, 7, str(tmp_path / "b"), recipe) == facts
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    trainer.train(small("mixtral"), TEXT, HELDOUT, 1, 0, str(tmp_path / "a"), trainer.Recipe(tokens=128, lengths=(64,)))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(("text", "steps"), [(TEXT, 0), (TEXT[:100], 1)])
def test_too_little_is_refused(tmp_path: Path, text: bytes, steps: int) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        trainer.train(small("mixtral"), text, HELDOUT, steps, 0, str(tmp_path / "a"))
