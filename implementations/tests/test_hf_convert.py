"""Round trips through transformers' fused experts: same names, shapes, dtypes and bits, but for what is declared lossy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from moe_harness.implementations import families, registry  # noqa: E402
from moe_harness.implementations.checkpoint.checkpoint import HEAD, Checkpoint  # noqa: E402
from moe_harness.implementations.checkpoint.writer import write_checkpoint  # noqa: E402
from moe_harness.implementations.families.weights import scatter  # noqa: E402
from moe_harness.implementations.interface import CheckpointError, LoadSpec, Request  # noqa: E402
from moe_harness.implementations.tests.tiny import tiny_checkpoint, tiny_config, tiny_tensors  # noqa: E402
from moe_harness.implementations.tests.tiny_hf import one_thread  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("one_thread")


def stored(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    with Checkpoint(path) as checkpoint:
        arrays = {placement.source: checkpoint.source(placement.source) for placement in checkpoint.layout}
    return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}


def legacy(raw: dict[str, Any]) -> dict[str, Any]:
    """The same config as transformers 4 wrote it."""
    theta, dtype = raw["rope_parameters"]["rope_theta"], raw["dtype"]
    return {k: v for k, v in raw.items() if k not in ("rope_parameters", "dtype")} | {"rope_theta": theta, "torch_dtype": dtype}


def rewrite(path: Path, raw: dict[str, Any]) -> None:
    (path / "config.json").write_text(json.dumps(raw))


@pytest.mark.parametrize("dtype, name", [("float32", "hf"), ("bfloat16", "hf:batched_mm"), ("float16", "hf:grouped_mm")])
@pytest.mark.parametrize("family", sorted(families.families()))
def test_round_trip_is_bit_exact(tmp_path: Path, family: str, dtype: str, name: str):
    tiny_checkpoint(tmp_path / "a", family, seed=7, dtype=dtype)
    (tmp_path / "a" / "tokenizer.json").write_text('{"x": 1}')
    hf = registry.backend(name)
    hf.from_hf(str(tmp_path / "a"), str(tmp_path / "b"))
    hf.to_hf(str(tmp_path / "b"), str(tmp_path / "c"))
    assert stored(tmp_path / "a") == stored(tmp_path / "b") == stored(tmp_path / "c")
    assert {file.name for file in (tmp_path / "c").iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    for side in ("config.json", "tokenizer.json"):
        assert (tmp_path / "c" / side).read_bytes() == (tmp_path / "a" / side).read_bytes()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("style", ["current", "legacy"])
def test_round_trip_of_fuzzed_configs(tmp_path: Path, seed: int, style: str):
    rng = np.random.default_rng(seed)
    family = sorted(families.families())[seed % 5]
    free = families.family(family).free
    E = int(rng.integers(2, 9))
    changes: dict[str, Any] = dict(
        num_experts=E,
        top_k=int(rng.integers(1, E + 1)),
        hidden_size=4 * int(rng.integers(3, 12)),
        moe_intermediate_size=int(rng.integers(5, 30)),
        vocab_size=int(rng.integers(70, 130)),
        rope_theta=float(rng.choice([1e4, 1234567.0])),
        eos_token_ids=((), (5,), (5, 7))[seed % 3],
        pad_token_id=(None, 0)[seed % 2],
        normalize_topk=bool(rng.integers(2)) if "normalize_topk" in free else True,
    )
    if "head_dim" in free:
        changes["head_dim"] = 2 * int(rng.integers(2, 7))
    else:
        changes["hidden_size"] = 8 * int(rng.integers(2, 6))
    if "sliding_window" in free:
        changes["sliding_window"] = (None, 3)[int(rng.integers(2))]
    if "dense_layers" in free:
        changes["moe_layers"] = ((0, 1, 2), (1,), ())[seed % 3]
    if "attention_bias" in free:
        changes["attention_bias"] = ((), tuple("qkv") if family == "qwen2_moe" else tuple("qkvo"))[int(rng.integers(2))]
    config = tiny_checkpoint(tmp_path / "a", family, seed=seed, **changes)
    if style == "legacy":
        rewrite(tmp_path / "a", legacy(json.loads((tmp_path / "a" / "config.json").read_text())))
    registry.backend("hf").from_hf(str(tmp_path / "a"), str(tmp_path / "b"))
    assert stored(tmp_path / "a") == stored(tmp_path / "b")
    assert (tmp_path / "b" / "config.json").read_bytes() == (tmp_path / "a" / "config.json").read_bytes()
    with Checkpoint(tmp_path / "b") as written:
        assert written.config == config


@pytest.mark.parametrize("family, stored_head", [("mixtral", True), ("qwen3_moe", False), ("olmoe", True), ("dots1", False)])
def test_tied_head(tmp_path: Path, family: str, stored_head: bool):
    """A stored copy of a tied head is the one tensor that is declared lost."""
    tiny_checkpoint(tmp_path / "a", family, tie_word_embeddings=True, stored_head=stored_head)
    hf = registry.backend("hf")
    hf.from_hf(str(tmp_path / "a"), str(tmp_path / "b"))
    source, written = stored(tmp_path / "a"), stored(tmp_path / "b")
    lost = {name: source.pop(name) for name in set(source) - set(written)}
    assert source == written and set(lost) == ({HEAD} if stored_head else set())
    assert any(sentence.startswith(f"{HEAD}: ") for sentence in hf.capabilities().lossy)
    ids = np.arange(8)[None]
    logits = []
    for directory in "ab":
        output = hf.load(str(tmp_path / directory), LoadSpec()).prefill(ids, np.array([8]), Request("all"))
        assert output.logits_BSV is not None
        logits.append(output.logits_BSV.tobytes())
    assert logits[0] == logits[1]


def test_sharded_source(tmp_path: Path):
    config = tiny_config("qwen3_moe", dtype="bfloat16")
    description = families.family("qwen3_moe")
    tensors = dict(scatter(description.layout(config, True), tiny_tensors(config)))
    write_checkpoint(tmp_path / "a", description.to_hf(config), tensors, shard_bytes=20_000)
    assert len(list((tmp_path / "a").glob("model-*.safetensors"))) > 2
    registry.backend("hf").to_hf(str(tmp_path / "a"), str(tmp_path / "b"))
    assert stored(tmp_path / "a") == stored(tmp_path / "b")
    assert not (tmp_path / "b" / "model.safetensors.index.json").exists()  # it fits one shard of transformers' size


def test_a_correction_bias_in_the_models_dtype_is_widened(tmp_path: Path):
    """Declared lossy: transformers keeps it in float32. Its values stay."""
    config = tiny_config("dots1", dtype="bfloat16")
    description, tensors = families.family("dots1"), tiny_tensors(config)
    narrow = {name: t.astype("bfloat16") if name.endswith("correction_bias") else t for name, t in tensors.items()}
    write_checkpoint(tmp_path / "a", description.to_hf(config), dict(scatter(description.layout(config, True), narrow)))
    registry.backend("hf").from_hf(str(tmp_path / "a"), str(tmp_path / "b"))
    before, after = stored(tmp_path / "a"), stored(tmp_path / "b")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"model.layers.{i}.mlp.gate.e_score_correction_bias" for i in config.moe_layers}
    for i in config.moe_layers:
        with Checkpoint(tmp_path / "b") as written:
            name = f"layers.{i}.moe.router.correction_bias"
            assert np.array_equal(written.tensor(name), narrow[name].astype(np.float32))
    assert any(sentence.startswith("correction biases: ") for sentence in registry.backend("hf").capabilities().lossy)


def test_absent_token_ids_stay_absent(tmp_path: Path):
    """transformers' Mixtral config fills in 1 and 2 for an absent BOS and EOS; the file keeps saying nothing."""
    tiny_checkpoint(tmp_path / "a")
    raw = json.loads((tmp_path / "a" / "config.json").read_text())
    rewrite(tmp_path / "a", {k: v for k, v in raw.items() if not k.endswith("_token_id")})
    registry.backend("hf").from_hf(str(tmp_path / "a"), str(tmp_path / "b"))
    assert "eos_token_id" not in json.loads((tmp_path / "b" / "config.json").read_text())


def test_failure_leaves_no_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from moe_harness.implementations.hf import loading

    hf = registry.backend("hf")
    with pytest.raises(CheckpointError):
        hf.from_hf(str(tmp_path / "absent"), str(tmp_path / "b"))
    tiny_checkpoint(tmp_path / "a")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="already exists"):
        hf.from_hf(str(tmp_path / "a"), str(tmp_path / "taken"))
    assert [file.name for file in (tmp_path / "taken").iterdir()] == ["file"]
    monkeypatch.setattr(loading, "copy_beside", lambda src, dst: None)  # no config.json: the result does not open
    with pytest.raises(CheckpointError, match="config.json"):
        hf.from_hf(str(tmp_path / "a"), str(tmp_path / "b"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "taken"]


def test_conversion_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    tiny_checkpoint(tmp_path / "a")
    registry.backend("hf").from_hf(str(tmp_path / "a"), str(tmp_path / "b"))
    assert capfd.readouterr() == ("", "")
