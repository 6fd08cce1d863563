"""Families: counts of the well-known models, config.json there and back, and agreement with transformers' own config classes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from implementations import families
from implementations.families.config import ConfigError
from implementations.interface import DTYPES, ModelConfig, RoutingSpec
from implementations.weights import parameter_counts

POSITIVE = st.floats(min_value=1e-30, max_value=1e30, allow_subnormal=False)
TOKENS = st.integers(0, 60)


@st.composite
def model_configs(draw: st.DrawFn, family: str | None = None) -> ModelConfig:
    """Every legal config of a family, small: all fields vary, and dense layers, one expert and one head occur."""
    family = draw(st.sampled_from(sorted(families.families()))) if family is None else family
    kv_heads, experts, layers = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    heads = kv_heads * draw(st.integers(1, 3))
    head_dim = 2 * draw(st.integers(1, 4))
    common = ModelConfig(
        family=family,
        architecture=families.family(family).architecture,
        vocab_size=draw(st.integers(1, 70)),
        hidden_size=draw(st.integers(1, 20) | st.just(heads * head_dim)),
        intermediate_size=(width := draw(st.integers(1, 9))),
        moe_intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=draw(st.integers(1, 10**6)),
        rms_norm_eps=draw(POSITIVE),
        rope_theta=draw(POSITIVE),
        routing=RoutingSpec(num_experts=experts, top_k=draw(st.integers(1, experts))),
        moe_layers=tuple(range(layers)),
        sliding_window=draw(st.none() | st.integers(1, 99)),
        tie_word_embeddings=draw(st.booleans()),
        eos_token_ids=tuple(draw(st.lists(TOKENS, max_size=3))),
        bos_token_id=draw(st.none() | TOKENS),
        pad_token_id=draw(st.none() | TOKENS),
        dtype=draw(st.sampled_from(DTYPES)),
    )
    return common if family == "mixtral" else draw(qwen3_moe_variants(common))


@st.composite
def qwen3_moe_variants(draw: st.DrawFn, common: ModelConfig) -> ModelConfig:
    """What Mixtral cannot say."""
    return replace(
        common,
        moe_intermediate_size=draw(st.integers(1, 9)),
        routing=replace(common.routing, normalize_topk=draw(st.booleans())),
        moe_layers=tuple(sorted(draw(st.sets(st.integers(0, common.num_hidden_layers - 1))))),
        qk_norm=True,
        attention_bias=draw(st.booleans()),
    )


def through_json(raw: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(raw, allow_nan=False))


@pytest.mark.parametrize(
    "family, name, total, active",
    [
        # Exact totals are the hub's own counts of the stored parameters; active ones follow by hand: Mixtral leaves 6 of 8 experts of
        # 3 * 4096 * 14336 idle in 32 layers, Qwen3 120 of 128 of 3 * 2048 * 768 in 48.
        ("mixtral", "mixtral-8x7b", 46_702_792_704, 46_702_792_704 - 32 * 6 * 3 * 4096 * 14336),
        ("qwen3_moe", "qwen3-30b-a3b", 30_532_122_624, 30_532_122_624 - 48 * 120 * 3 * 2048 * 768),
    ],
)
def test_parameter_counts(family: str, name: str, total: int, active: int):
    assert parameter_counts(families.family(family).parse(families.family(family).public[name])) == (total, active)


def test_parameter_counts_in_billions():
    """As published: 46.7 B and 12.9 B; 30.5 B and 3.3 B."""
    parsed = {f.name: f.parse(raw) for f in families.families().values() for raw in f.public.values()}
    rounded = {name: tuple(f"{count / 1e9:.2f}" for count in parameter_counts(config)) for name, config in parsed.items()}
    assert rounded == {"mixtral": ("46.70", "12.88"), "qwen3_moe": ("30.53", "3.35")}


@settings(max_examples=100, deadline=None)
@given(model_configs())
def test_writing_a_config_and_parsing_it_is_the_identity(config: ModelConfig):
    raw = through_json(families.family(config.family).to_hf(config))
    assert families.detect(raw).name == config.family
    assert families.detect(raw).parse(raw) == config


def test_detect_and_family_name_what_they_know():
    assert set(families.families()) == {"mixtral", "qwen3_moe"}
    with pytest.raises(KeyError, match="unknown family 'llama'; known: mixtral, qwen3_moe"):
        families.family("llama")


def seen_by_transformers(hf: Any) -> dict[str, Any]:
    """The fields of ModelConfig, read off a transformers config by the rules of its modelling code."""
    P = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    eos = hf.eos_token_id
    qwen = hf.model_type == "qwen3_moe"
    sparse = [i for i in range(hf.num_hidden_layers) if not qwen or (i not in hf.mlp_only_layers and (i + 1) % hf.decoder_sparse_step == 0)]
    return {
        "head_dim": P,
        "moe_intermediate_size": hf.moe_intermediate_size if qwen else hf.intermediate_size,
        "rope_theta": hf.rope_parameters["rope_theta"],
        "moe_layers": tuple(sparse),
        "attention_bias": getattr(hf, "attention_bias", False),
        "eos_token_ids": () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        "dtype": str(hf.dtype).removeprefix("torch."),
        "routing": (hf.num_local_experts, hf.num_experts_per_tok, hf.norm_topk_prob if qwen else True),
        **{
            name: getattr(hf, name)
            for name in (
                "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads rms_norm_eps "
                "max_position_embeddings sliding_window tie_word_embeddings bos_token_id pad_token_id".split()
            )
        },
    }


def seen_by_us(config: ModelConfig) -> dict[str, Any]:
    fields = {name: value for name, value in vars(config).items() if name not in ("family", "architecture", "qk_norm")}
    return dict(fields, routing=(config.routing.num_experts, config.routing.top_k, config.routing.normalize_topk))


def hf_config(raw: dict[str, Any]) -> Any:
    transformers = pytest.importorskip("transformers")
    return {"mixtral": transformers.MixtralConfig, "qwen3_moe": transformers.Qwen3MoeConfig}[raw["model_type"]].from_dict(dict(raw))


@pytest.mark.transformers
@settings(max_examples=60, deadline=None)
@given(model_configs())
def test_transformers_reads_what_we_write_alike(config: ModelConfig):
    raw = through_json(families.family(config.family).to_hf(config))
    assert seen_by_transformers(hf_config(raw)) == seen_by_us(config)


OPTIONAL = (
    "head_dim sliding_window use_sliding_window decoder_sparse_step mlp_only_layers norm_topk_prob attention_bias tie_word_embeddings "
    "bos_token_id eos_token_id pad_token_id hidden_act".split()
)


@pytest.mark.transformers
@settings(max_examples=100, deadline=None)
@given(family=st.sampled_from(sorted(families.families())), data=st.data())
def test_absent_keys_mean_what_they_mean_to_transformers(family: str, data: st.DataObject):
    """A legacy config with any optional keys left out: we refuse it, or fill the gaps as transformers does."""
    config = data.draw(model_configs(family))
    raw = through_json(families.family(family).to_hf(config))
    raw |= {"rope_theta": raw.pop("rope_parameters")["rope_theta"], "rope_scaling": None, "torch_dtype": raw.pop("dtype")}
    for key in data.draw(st.sets(st.sampled_from(OPTIONAL))):
        raw.pop(key, None)
    try:
        parsed = families.detect(raw).parse(raw)
    except ConfigError:
        return
    assert seen_by_us(parsed) == seen_by_transformers(hf_config(raw))


@pytest.mark.transformers
@pytest.mark.parametrize("family", sorted(families.families()))
def test_the_well_known_configs_are_read_alike(family: str):
    for raw in families.family(family).public.values():
        assert seen_by_us(families.family(family).parse(raw)) == seen_by_transformers(hf_config(raw))
