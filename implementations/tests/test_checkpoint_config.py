"""Bad config.json files, in directories that are good otherwise. Each error names the field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_harness.implementations.tests.test_checkpoint_bad import Bad, check, text
from moe_harness.implementations.tests.test_checkpoint_good import MIXTRAL_CURRENT, MIXTRAL_LEGACY, QWEN_CURRENT, Raw

M, Q = MIXTRAL_LEGACY, QWEN_CURRENT


def config(message: str, raw: Raw = M, remove: tuple[str, ...] = (), **changes: object) -> Bad:
    """A bad config.json: `changes` on top of `raw`. Infinite and NaN values are written as Python does."""
    changed = {key: value for key, value in {**raw, **changes}.items() if key not in remove}
    return Bad(lambda p: (p / "config.json").write_text(json.dumps(changed)), "config.json", None, message, raw)


def rope(**values: object) -> dict[str, object]:
    return {"rope_theta": 1e4, "rope_type": "default", **values}


CONFIGS: dict[str, Bad] = {
    "not JSON": Bad(text("config.json", '{"vocab_size": '), "config.json", None, "cannot be read as JSON", M),
    "empty": Bad(text("config.json", ""), "config.json", None, "cannot be read as JSON", M),
    "not UTF-8": Bad(text("config.json", b'{"a": "\xff"}'), "config.json", None, "cannot be read as JSON", M),
    "nested too deep": Bad(text("config.json", "[" * 100_000), "config.json", None, "cannot be read as JSON", M),
    "a list": Bad(text("config.json", "[1]"), "config.json", None, "expected a JSON object, got list", M),
    "a key twice": Bad(text("config.json", '{"a": 1, "a": 2}'), "config.json", None, "'a' stands there twice", M),
    "NaN": config("NaN is not JSON", rms_norm_eps=float("nan")),
    "Infinity": config("Infinity is not JSON", rope_theta=float("inf")),
    "-Infinity in a field that nothing reads": config("-Infinity is not JSON", initializer_range=float("-inf")),
    "overflowing number": Bad(
        lambda p: (p / "config.json").write_text(json.dumps(M).replace("1000000.0", "1e999")), "config.json", None,
        "'rope_theta': expected a finite", M,
    ),
    "overflowing integer": config("'rms_norm_eps': expected a finite", rms_norm_eps=10**400),
    "negative eps": config("'rms_norm_eps'", rms_norm_eps=-1e-5),
    "text for a number": config("'rms_norm_eps'", rms_norm_eps="1e-5"),
    "float for an integer": config("'hidden_size': expected an integer >= 1, got 12.0", hidden_size=12.0),
    "boolean for an integer": config("'num_hidden_layers': expected an integer >= 1, got True", num_hidden_layers=True),
    "zero layers": config("'num_hidden_layers'", num_hidden_layers=0),
    "damaged count": config("'num_hidden_layers': expected at most 1024, got 2147483648", num_hidden_layers=2**31),
    "missing field": config("'vocab_size': missing", remove=("vocab_size",)),
    "text for a boolean": config("'tie_word_embeddings'", tie_word_embeddings="false"),
    "bad token id": config("'eos_token_id'", eos_token_id=[2, -1]),
    "no architectures": config("'architectures': expected a list of one", remove=("architectures",)),
    "no architecture": config("'architectures': expected a list of one", architectures=[]),
    "two architectures": config("'architectures': expected a list of one", architectures=["MixtralForCausalLM", "Qwen3MoeForCausalLM"]),
    "architecture as text": config("'architectures': expected a list of one", architectures="MixtralForCausalLM"),
    "unknown architecture": config("unknown architecture 'LlamaForCausalLM'; known: ", architectures=["LlamaForCausalLM"]),
    "another model_type": config("'model_type': 'llama'", model_type="llama"),
    "unknown key": config("'quantization_config': unknown key", quantization_config={"bits": 4}),
    "another family's key": config("'norm_topk_prob': unknown key", norm_topk_prob=True),
    "contradictory experts": config("contradictory", num_experts=6),
    "no experts": config("'num_local_experts': missing", remove=("num_local_experts",)),
    "more chosen than there are": config("'num_experts_per_tok': 6 of 5 experts", num_experts_per_tok=6),
    "yarn, legacy": config("'rope_scaling': only the default", rope_scaling={"type": "yarn", "factor": 4.0}),
    "yarn, current": config("'rope_parameters': only the default", MIXTRAL_CURRENT, rope_parameters=rope(rope_type="yarn", factor=4.0)),
    "partial rope": config("'rope_parameters': only the default RoPE", MIXTRAL_CURRENT, rope_parameters=rope(partial_rotary_factor=0.5)),
    "rope without theta": config("'rope_parameters.rope_theta'", MIXTRAL_CURRENT, rope_parameters={"rope_type": "default"}),
    "rope twice": config("'rope_theta': contradicts rope_parameters", MIXTRAL_CURRENT, rope_theta=1e4),
    "no rope": config("'rope_theta'", remove=("rope_theta",)),
    "gelu": config("'hidden_act': only silu", hidden_act="gelu"),
    "heads": config("6 attention heads are not a multiple of 4", num_key_value_heads=4),
    "head size": config("hidden_size 12 is not a multiple of 5", num_attention_heads=5, num_key_value_heads=5),
    "odd head size": config("'head_dim'", head_dim=3),
    "dtype": config("'dtype'", MIXTRAL_CURRENT, dtype="float8_e4m3fn"),
    "no dtype": config("'dtype'", remove=("torch_dtype",)),
    "dtype twice": config("'dtype': contradictory", dtype="bfloat16"),
    "mlp_only_layers out of range": config("'mlp_only_layers': expected layer indices in [0, 3)", Q, mlp_only_layers=[0, 3]),
    "mlp_only_layers negative": config("'mlp_only_layers'", Q, mlp_only_layers=[-1]),
    "mlp_only_layers boolean": config("'mlp_only_layers'", Q, mlp_only_layers=[True]),
    "mlp_only_layers no list": config("'mlp_only_layers'", Q, mlp_only_layers=False),
    "sparse step": config("'decoder_sparse_step'", Q, decoder_sparse_step=0),
    "window used but not given": config("'sliding_window'", Q, use_sliding_window=True, remove=("sliding_window",)),
}  # fmt: skip


@pytest.mark.parametrize("bad", CONFIGS.values(), ids=CONFIGS)
def test_a_bad_config_is_refused(tmp_path: Path, bad: Bad):
    check(bad, tmp_path)
