"""Every graph of the Neuron model has one shape, by strict export; what depends on data is told apart, even where it exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moe_harness.implementations.interface import LoadSpec
from moe_harness.implementations.neuron.backend import backend
from moe_harness.implementations.tests.tiny import tiny_checkpoint

torch: Any = pytest.importorskip("torch")
proof = pytest.importorskip("moe_harness.implementations.neuron.compiled")


@pytest.mark.parametrize(
    ("family", "variant", "options"),
    [
        ("mixtral", "sampling", {}),
        ("dots1", "blockwise", {"block": "4"}),
        ("qwen2_moe", "tp2,selective", {}),
        ("qwen3_moe", None, {"capacity_factor": "1.0", "mask_padding": "true"}),
    ],
)
def test_every_graph_has_one_shape(tmp_path: Path, family: str, variant: str | None, options: dict[str, str]):
    tiny_checkpoint(tmp_path / "m", family, num_hidden_layers=1)
    model: Any = backend(variant).load(str(tmp_path / "m"), LoadSpec(max_batch=2, max_length=16, options=options))
    found = model.prove_static()
    assert all(each.is_static for each in found), found
    assert len(found) == (5 if variant == "sampling" else 3)  # a prompt, a token and a further chunk; sampled, the first two again


def test_there_is_a_graph_for_every_size(tmp_path: Path):
    """Prompts in each; tokens and chunks of each behind each."""
    tiny_checkpoint(tmp_path / "m", num_hidden_layers=1)
    model: Any = backend().load(str(tmp_path / "m"), LoadSpec(max_batch=2, max_length=24))
    shapes = [(*call.ids_BS.shape, call.length if call.starts_B is not None else None) for call in model._calls()]
    assert sorted(shapes, key=str) == sorted(
        [(1, size, None) for size in (16, 24)]
        + [(2, 1, length) for length in (16, 24)]
        + [(1, size, length) for size in (16, 24) for length in (16, 24)],
        key=str,
    )


class HitExperts(torch.nn.Module):
    """A loop over the tokens of each expert, as many reference implementations have it."""

    def forward(self, x, ids):
        y = torch.zeros_like(x)
        for expert in range(3):
            (rows,) = torch.where(ids == expert)
            y = y.index_add(0, rows, x[rows] * expert)
        return y


class Branch(torch.nn.Module):
    def forward(self, x, ids):
        return x if ids.sum() > 3 else -x


class Forgetful(torch.nn.Module):
    """Not the same when it is traced."""

    def forward(self, x, ids):
        return x + 1 if torch.compiler.is_exporting() or torch.compiler.is_compiling() else x


class Nan(torch.nn.Module):
    """No number, once it is traced, in the second of its outputs."""

    def forward(self, x, ids):
        return x, x * torch.nan if torch.compiler.is_compiling() else x


@pytest.mark.parametrize(("wrong", "why"), [(HitExperts, "dynamic"), (Branch, "problem"), (Forgetful, "difference"), (Nan, "difference")])
def test_what_depends_on_data_is_told_apart(wrong: Any, why: str):
    found = proof.prove("wrong", wrong(), (torch.ones(4, 2), torch.tensor([0, 1, 1, 2])))
    assert not found.is_static and getattr(found, why), found
