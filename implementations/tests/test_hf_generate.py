"""Generation by transformers, against steps of the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch  # noqa: E402

from moe_harness.implementations import registry  # noqa: E402
from moe_harness.implementations.interface import GenerationSpec, InvalidInput, LoadSpec, Request, Unsupported  # noqa: E402
from moe_harness.implementations.tests.tiny import tiny_checkpoint  # noqa: E402
from moe_harness.implementations.tests.tiny_hf import full, load, one_thread, prompts  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = np.array([12, 5, 9])
NO_EOS = ()


def greedy_by_steps(model: Any, row: np.ndarray, new: int) -> list[int]:
    """Greedy continuation of one row through prefill and decode."""
    model.reset()
    output = model.prefill(row[None], full(row[None]), Request())
    ids = [int(output.logits_BSV[0, 0].argmax())]
    while len(ids) < new:
        ids.append(int(model.decode(np.array(ids[-1:]), Request()).logits_BSV[0, 0].argmax()))
    model.reset()
    return ids


@pytest.mark.parametrize(
    "family, padding", [("mixtral", "left"), ("qwen3_moe", "right"), ("qwen2_moe", "left"), ("olmoe", "right"), ("dots1", "left")]
)
def test_greedy_equals_steps_of_each_row_alone(tmp_path: Path, family: str, padding: str):
    model, _ = load(tmp_path, family)
    ids = prompts()
    rows = [ids[b, : LENGTHS[b]] if padding == "right" else ids[b, 12 - LENGTHS[b] :] for b in range(3)]
    expected = [greedy_by_steps(model, row, 8) for row in rows]
    assert model.generate(ids, LENGTHS, GenerationSpec(8, eos_token_ids=NO_EOS), padding) == expected


def test_generation_stops_at_eos_and_rows_are_independent(tmp_path: Path):
    """Each row's own sixth token is declared an EOS: the row ends at its first EOS, EOS included, and the others go on unchanged."""
    model, _ = load(tmp_path)
    ids = prompts()
    endless = model.generate(ids, LENGTHS, GenerationSpec(12, eos_token_ids=NO_EOS))
    assert all(len(row) == 12 for row in endless)
    for eos in ((endless[1][5],), (endless[0][5], endless[2][7])):
        got = model.generate(ids, LENGTHS, GenerationSpec(12, eos_token_ids=eos))
        expected = [row[: min((row.index(e) + 1 for e in eos if e in row), default=12)] for row in endless]
        assert got == expected and any(len(row) < 12 for row in got)


def test_eos_none_is_the_checkpoints_own(tmp_path: Path):
    """From generation_config.json where there is one, as transformers has it; its sampling defaults and penalties are not used."""
    ids = prompts()
    model, _ = load(tmp_path, eos_token_ids=NO_EOS)
    endless = model.generate(ids, LENGTHS, GenerationSpec(12))
    assert all(len(row) == 12 for row in endless)
    token = endless[0][4]
    for eos in ((token,), (token, 3)):  # an integer in config.json, and a list
        model, _ = load(tmp_path, eos_token_ids=eos)
        assert model.generate(ids, LENGTHS, GenerationSpec(12))[0] == endless[0][: endless[0].index(token) + 1]
    tiny_checkpoint(tmp_path / "own", eos_token_ids=(token,))
    other = endless[0][2]
    own = {"eos_token_id": [other], "do_sample": True, "temperature": 9.0, "repetition_penalty": 5.0, "max_length": 14}
    (tmp_path / "own" / "generation_config.json").write_text(json.dumps(own))
    model = cast(Any, registry.backend("hf").load(str(tmp_path / "own"), LoadSpec()))
    assert model.generate(ids, LENGTHS, GenerationSpec(12))[0] == endless[0][: endless[0].index(other) + 1]


def test_sampling_follows_the_seed_and_its_limits(tmp_path: Path):
    model, _ = load(tmp_path)
    ids = prompts()

    def sample(**fields: Any) -> list[list[int]]:
        return model.generate(ids, LENGTHS, GenerationSpec(8, eos_token_ids=NO_EOS, **fields))

    before = torch.random.get_rng_state()
    assert sample(temperature=1.0, seed=1) == sample(temperature=1.0, seed=1) != sample(temperature=1.0, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    greedy = sample()
    assert sample(temperature=1.0, top_k=1) == sample(temperature=1.0, top_p=1e-6) == sample(temperature=1e-4) == greedy
    assert sample(seed=1) == greedy != sample(temperature=1.0)


def test_top_k_zero_keeps_every_token(tmp_path: Path):
    """transformers' own default would keep 50 of the 96."""
    model, _ = load(tmp_path)
    ids = np.tile(prompts(B=1), (8, 1))
    first = [row[0] for seed in range(60) for row in model.generate(ids, full(ids), GenerationSpec(1, temperature=50.0, seed=seed))]
    assert len(set(first)) > 60  # 480 nearly uniform draws of 96 hit 95 on average


def test_generation_starts_empty_and_leaves_empty(tmp_path: Path):
    model, _ = load(tmp_path)
    ids = prompts()
    fresh = model.generate(ids, LENGTHS, GenerationSpec(4))
    logits = model.prefill(ids, full(ids), Request()).logits_BSV
    assert model.generate(ids, LENGTHS, GenerationSpec(4)) == fresh
    with pytest.raises(InvalidInput, match="before any prefill"):
        model.decode(ids[:, 0], Request())
    assert model.prefill(ids, full(ids), Request()).logits_BSV.tobytes() == logits.tobytes()


def test_window_and_right_padding(tmp_path: Path):
    model, _ = load(tmp_path, sliding_window=5)
    ids = prompts()
    expected = [greedy_by_steps(model, ids[b, : LENGTHS[b]], 8) for b in range(3)]
    assert model.generate(ids, LENGTHS, GenerationSpec(8, eos_token_ids=NO_EOS)) == expected
    model, _ = load(tmp_path, sliding_window=1)
    with pytest.raises(Unsupported):
        model.generate(ids, LENGTHS, GenerationSpec(2))
    assert len(model.generate(ids, LENGTHS, GenerationSpec(1))[0]) == 1


@pytest.mark.parametrize(
    "spec",
    [
        GenerationSpec(0),
        GenerationSpec(6),
        GenerationSpec(2, temperature=-1.0),
        GenerationSpec(2, temperature=1.0, top_p=0.0),
        GenerationSpec(2, top_k=-1),
    ],
)
def test_bad_generation_spec(tmp_path: Path, spec: GenerationSpec):
    model, _ = load(tmp_path, max_length=16, eos_token_ids=NO_EOS)
    ids = prompts()
    with pytest.raises(InvalidInput):
        model.generate(ids, LENGTHS, spec)
    with pytest.raises(InvalidInput):
        model.generate(ids, LENGTHS * 0, GenerationSpec(2))
    assert [len(row) for row in model.generate(ids, LENGTHS, GenerationSpec(5))] == [5, 5, 5]


def test_right_aligned_keeps_the_order_of_the_tokens():
    from moe_harness.implementations.hf.generation import right_aligned
    from moe_harness.implementations.hf.inputs import prefill_chunk

    ids = np.stack([np.arange(40), np.arange(50, 90)])
    for padding, expected in (("right", [range(30), range(50, 75)]), ("left", [range(10, 40), range(65, 90)])):
        aligned, valid = right_aligned(prefill_chunk(ids, np.array([30, 25]), padding, 96))
        assert aligned.shape == valid.shape == (2, 30) and valid.sum(axis=1).tolist() == [30, 25] and valid[1, 5:].all()
        assert [row[mask].tolist() for row, mask in zip(aligned, valid)] == [list(row) for row in expected]
