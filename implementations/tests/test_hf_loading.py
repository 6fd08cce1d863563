"""Loading into the hf backend: specs, directories, transformers' own report, and what the backend says of itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch  # noqa: E402

from moe_harness.implementations import registry  # noqa: E402
from moe_harness.implementations.interface import (
    CheckpointError,
    Generate,
    GoldenTrainer,
    InvalidInput,
    LoadSpec,
    Loss,
    Packed,
    Probe,
    Request,
    RouterBuilder,
    Unsupported,
)
from moe_harness.implementations.tests.tiny import tiny_checkpoint  # noqa: E402
from moe_harness.implementations.tests.tiny_hf import full, load, one_thread, prompts  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "spec, error",
    [
        (LoadSpec(options={"attn": "eager"}), InvalidInput),
        (LoadSpec(options={"attention": "flash"}), InvalidInput),
        (LoadSpec(dtype="float64"), InvalidInput),
        (LoadSpec(max_length=0), InvalidInput),
        (LoadSpec(device="neuron"), Unsupported),
        (LoadSpec(device="cuda:99"), Unsupported),
    ],
)
def test_bad_load_spec(tmp_path: Path, spec: LoadSpec, error: type[Exception]):
    tiny_checkpoint(tmp_path / "c")
    with pytest.raises(error):
        registry.backend("hf").load(str(tmp_path / "c"), spec)


def test_bad_directories_are_checkpoint_errors(tmp_path: Path):
    tiny_checkpoint(tmp_path / "c")
    hf = registry.backend("hf")
    with pytest.raises(CheckpointError, match="not a directory"):
        hf.load(str(tmp_path / "absent"), LoadSpec())
    config = tmp_path / "c" / "config.json"
    raw = json.loads(config.read_text())
    config.write_text(json.dumps(dict(raw, num_local_experts=7)))
    with pytest.raises(CheckpointError, match="missing"):
        hf.load(str(tmp_path / "c"), LoadSpec())
    config.write_text(json.dumps(dict(raw, attention_dropout="much")))  # inert to us, refused by transformers
    with pytest.raises(CheckpointError, match="transformers refuses it.*attention_dropout"):
        hf.load(str(tmp_path / "c"), LoadSpec())


@pytest.mark.parametrize("kind", ["missing_keys", "unexpected_keys", "mismatched_keys"])
def test_what_transformers_reports_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    """The strict reader leaves transformers nothing to report, so its report is forged."""
    from moe_harness.implementations.hf import loading

    tiny_checkpoint(tmp_path / "c")
    original = loading.AutoModelForCausalLM.from_pretrained

    def forged(*args: Any, **kwargs: Any) -> Any:
        module, info = original(*args, **kwargs)
        return module, dict(info, **{kind: {"model.norm.weight"}})

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", forged)
    with pytest.raises(CheckpointError, match=f"{kind}.*model.norm.weight"):
        registry.backend("hf").load(str(tmp_path / "c"), LoadSpec())


FORGED = {
    "qwen3_moe": "vocab_size sliding_window rope_parameters num_experts_per_tok head_dim eos_token_id attention_bias",
    "qwen2_moe": "qkv_bias shared_expert_intermediate_size norm_topk_prob",
    "olmoe": "clip_qkv num_experts",
    "dots1": "n_group topk_group routed_scaling_factor n_shared_experts first_k_dense_replace n_routed_experts",
}
FORGED_VALUES = {
    "rope_parameters": {"rope_theta": 3.0, "rope_type": "default"}, "attention_bias": True, "qkv_bias": False, "norm_topk_prob": True,
    "first_k_dense_replace": 2, "clip_qkv": 1.0, "routed_scaling_factor": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("family, field", [(family, field) for family, fields in FORGED.items() for field in fields.split()])
def test_config_that_transformers_reads_differently_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, field: str):
    from moe_harness.implementations.hf import loading

    tiny_checkpoint(tmp_path / "c", family)
    original = loading.AutoModelForCausalLM.from_pretrained

    def forged(*args: Any, **kwargs: Any) -> Any:
        module, info = original(*args, **kwargs)
        setattr(module.config, field, FORGED_VALUES.get(field, 1))
        return module, info

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", forged)
    with pytest.raises(CheckpointError, match="transformers reads"):
        registry.backend("hf").load(str(tmp_path / "c"), LoadSpec())


def test_loading_leaves_settings_alone_and_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    from transformers.utils import logging

    def settings() -> tuple[Any, ...]:
        random_state = torch.random.get_rng_state().tolist()
        return logging.get_verbosity(), logging.is_progress_bar_enabled(), torch.get_num_threads(), torch.get_default_dtype(), random_state

    found = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)  # not what quiet() sets, so that a setting that is not put back shows
    logging.enable_progress_bar()
    try:
        before = settings()
        model, _ = load(tmp_path)
        model.prefill(prompts(), full(prompts()), Request())
        model.close()
        assert settings() == before
        assert capfd.readouterr() == ("", "")
    finally:
        logging.set_verbosity(found)


def test_declared_protocols_are_there(tmp_path: Path):
    model, _ = load(tmp_path)
    assert all(isinstance(model, protocol) for protocol in (Probe, Generate, Packed, Loss))
    assert isinstance(registry.backend("hf"), GoldenTrainer) and isinstance(registry.backend("hf"), RouterBuilder)
    assert {"probe", "generate", "packed", "loss", "router", "train"} <= set(registry.backend("hf").capabilities().features)


def test_missing_library_is_a_reason_and_not_a_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from moe_harness.implementations.hf.backend import unavailable

    hf = registry.backend("hf")
    unavailable.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)  # what `import` then raises is an ImportError
    try:
        assert "transformers cannot be imported" in str(hf.capabilities().unavailable)
        with pytest.raises(Unsupported, match="transformers"):
            hf.load(str(tmp_path), LoadSpec())
    finally:
        unavailable.cache_clear()


def test_capabilities_say_what_is_here():
    from moe_harness.implementations.hf.backend import _out_of_bounds

    capabilities = registry.backend("hf").capabilities()
    assert capabilities.unavailable is None and capabilities.reads_hf and {"mixtral", "qwen3_moe"} <= set(capabilities.families)
    assert capabilities.execution == ("device" if torch.cuda.is_available() else "cpu")
    bounds = ((5, 10, 1), 6)
    assert [_out_of_bounds("transformers", v, *bounds) is None for v in ("5.10.0", "5.10.1", "5.23.0.dev0", "6.0.0", "4.57.1")] == [
        False, True, True, False, False,
    ]  # fmt: skip
    assert _out_of_bounds("torch", "2.13.0+cpu", (2, 11), None) is None
    assert _out_of_bounds("torch", "2.9.1", (2, 11), None) == "torch 2.9.1 is installed, >= 2.11 is needed"
