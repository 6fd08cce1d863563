"""Families: counts of the well-known models, config.json there and back, and agreement with transformers' own config classes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_harness.implementations import families
from moe_harness.implementations.families.config import ConfigError
from moe_harness.implementations.families.weights import parameter_counts
from moe_harness.implementations.interface import DTYPES, ModelConfig, RoutingSpec

POSITIVE = st.floats(min_value=1e-30, max_value=1e30, allow_subnormal=False)
TOKENS = st.integers(0, 60)
BIASED = {"qwen2_moe": ("q", "k", "v")}  # which projections `attention_bias` is about; elsewhere all four


@st.composite
def model_configs(draw: st.DrawFn, family: str | None = None) -> ModelConfig:
    """Every legal config of a family, small: all that its config.json can say varies, and dense layers, one expert and one head occur."""
    family = draw(st.sampled_from(sorted(families.families()))) if family is None else family
    description = families.family(family)
    free, traits = description.free, {name: value for name, value in description.traits.items() if name != "routing"}
    kv_heads, layers = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    heads, head_dim = kv_heads * draw(st.integers(1, 3)), 2 * draw(st.integers(1, 4))
    natural = st.just(heads * head_dim)
    width = draw(st.integers(1, 9))
    moe_width = draw(st.integers(1, 9)) if "moe_intermediate_size" in free else width
    return ModelConfig(
        family=family,
        architecture=description.architecture,
        vocab_size=draw(st.integers(1, 70)),
        hidden_size=draw(st.integers(1, 20) | natural if "head_dim" in free else natural),
        intermediate_size=width,
        moe_intermediate_size=moe_width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=draw(st.integers(1, 10**6)),
        rms_norm_eps=draw(POSITIVE),
        rope_theta=draw(POSITIVE),
        routing=draw(routings(family)),
        moe_layers=draw(moe_layers(layers, free)),
        sliding_window=draw(st.none() | st.integers(1, 99)) if "sliding_window" in free else None,
        attention_bias=draw(st.sampled_from([(), BIASED.get(family, tuple("qkvo"))])) if "attention_bias" in free else (),
        tie_word_embeddings=draw(st.booleans()),
        eos_token_ids=tuple(draw(st.lists(TOKENS, max_size=3))),
        bos_token_id=draw(st.none() | TOKENS),
        pad_token_id=draw(st.none() | TOKENS),
        dtype=draw(st.sampled_from(DTYPES)),
        shared_expert_intermediate_size=draw(shared_widths(traits.get("shared_expert", "none"), moe_width)),
        **traits,
    )


@st.composite
def routings(draw: st.DrawFn, family: str) -> RoutingSpec:
    free, fixed = families.family(family).free, families.family(family).traits.get("routing", {})
    groups = draw(st.integers(1, 3)) if "groups" in free else 1
    size = draw(st.integers(2, 3)) if "groups" in free else draw(st.integers(1, 5))
    top_groups = draw(st.integers(1, groups))
    return RoutingSpec(
        num_experts=groups * size,
        top_k=draw(st.integers(1, top_groups * size)),
        normalize_topk=draw(st.booleans()) if "normalize_topk" in free else True,
        num_groups=groups,
        top_groups=top_groups,
        scaling_factor=draw(POSITIVE) if "scaling_factor" in free else 1.0,
        **fixed,
    )


def moe_layers(layers: int, free: tuple[str, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    if "dense_layers" in free:
        return st.sets(st.integers(0, layers - 1)).map(lambda chosen: tuple(sorted(chosen)))
    if "leading_dense_layers" in free:
        return st.integers(0, layers).map(lambda dense: tuple(range(dense, layers)))
    return st.just(tuple(range(layers)))


def shared_widths(kind: str, moe_width: int) -> st.SearchStrategy[int]:
    """dots.llm1 counts its ungated one in experts."""
    return {"none": st.just(0), "gated": st.integers(1, 9), "ungated": st.integers(1, 3).map(lambda n: n * moe_width)}[kind]


def through_json(raw: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(raw, allow_nan=False))


@pytest.mark.parametrize(
    "family, name, total, active",
    [
        # Exact totals are the hub's own counts of the stored parameters; active ones follow by hand: Mixtral leaves 6 of 8 experts of
        # 3 * 4096 * 14336 idle in 32 layers, Qwen3 120 of 128 of 3 * 2048 * 768 in 48; the first of dots.llm1's 62 layers is dense.
        ("mixtral", "mixtral-8x7b", 46_702_792_704, 46_702_792_704 - 32 * 6 * 3 * 4096 * 14336),
        ("qwen3_moe", "qwen3-30b-a3b", 30_532_122_624, 30_532_122_624 - 48 * 120 * 3 * 2048 * 768),
        ("qwen2_moe", "qwen1.5-moe-a2.7b", 14_315_784_192, 14_315_784_192 - 24 * 56 * 3 * 2048 * 1408),
        ("olmoe", "olmoe-1b-7b", 6_919_161_856, 6_919_161_856 - 16 * 56 * 3 * 2048 * 1024),
        ("dots1", "dots.llm1", 142_774_381_696, 142_774_381_696 - 61 * 122 * 3 * 4096 * 1408),
    ],
)
def test_parameter_counts(family: str, name: str, total: int, active: int):
    assert parameter_counts(families.family(family).parse(families.family(family).public[name])) == (total, active)


def test_parameter_counts_in_billions():
    """As published: 46.7 B and 12.9 B; 30.5 B and 3.3 B; 14.3 B and 2.7 B; 6.9 B and 1.3 B; 142 B and 14 B."""
    parsed = {f.name: f.parse(raw) for f in families.families().values() for raw in f.public.values()}
    rounded = {name: tuple(f"{count / 1e9:.2f}" for count in parameter_counts(config)) for name, config in parsed.items()}
    assert rounded == {
        "mixtral": ("46.70", "12.88"),
        "qwen3_moe": ("30.53", "3.35"),
        "qwen2_moe": ("14.32", "2.69"),
        "olmoe": ("6.92", "1.28"),
        "dots1": ("142.77", "14.02"),
    }


@settings(max_examples=100, deadline=None)
@given(model_configs())
def test_writing_a_config_and_parsing_it_is_the_identity(config: ModelConfig):
    raw = through_json(families.family(config.family).to_hf(config))
    assert families.detect(raw).name == config.family
    assert families.detect(raw).parse(raw) == config


def test_detect_and_family_name_what_they_know():
    assert set(families.families()) == {"dots1", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"}
    assert set(families.routing_families()) == {"deepseek_v3", "gpt_oss"}
    with pytest.raises(KeyError, match="unknown family 'llama'; known: dots1, mixtral, olmoe, qwen2_moe, qwen3_moe"):
        families.family("llama")


def seen_by_transformers(hf: Any) -> dict[str, Any]:
    """The fields of ModelConfig, read off a transformers config by the rules of its modelling code."""
    eos, biased = hf.eos_token_id, getattr(hf, "qkv_bias", getattr(hf, "attention_bias", False))
    moe_width = getattr(hf, "moe_intermediate_size", hf.intermediate_size)
    return {
        "head_dim": getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads,
        "moe_intermediate_size": moe_width,
        "rope_theta": hf.rope_parameters["rope_theta"],
        "moe_layers": tuple(i for i in range(hf.num_hidden_layers) if has_experts(hf, i)),
        "attention_bias": BIASED.get(hf.model_type, tuple("qkvo")) if biased else (),
        "eos_token_ids": () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        "dtype": str(hf.dtype).removeprefix("torch."),
        "routing": routing_of(hf),
        "sliding_window": window_of(hf),
        "shared_expert_intermediate_size": getattr(hf, "shared_expert_intermediate_size", moe_width * getattr(hf, "n_shared_experts", 0)),
        **{
            name: getattr(hf, name)
            for name in (
                "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads rms_norm_eps "
                "max_position_embeddings tie_word_embeddings bos_token_id pad_token_id".split()
            )
        },
    }


def has_experts(hf: Any, layer: int) -> bool:
    if hasattr(hf, "mlp_only_layers"):
        return layer not in hf.mlp_only_layers and (layer + 1) % hf.decoder_sparse_step == 0
    return layer >= getattr(hf, "first_k_dense_replace", 0)


def routing_of(hf: Any) -> tuple[Any, ...]:
    E = hf.num_experts if hasattr(hf, "num_experts") else hf.num_local_experts
    groups = getattr(hf, "n_group", 1), getattr(hf, "topk_group", 1)
    return E, hf.num_experts_per_tok, getattr(hf, "norm_topk_prob", True), *groups, getattr(hf, "routed_scaling_factor", 1.0)


def window_of(hf: Any) -> int | None:
    """By layer where the config has kinds of layers, else for all."""
    kinds = getattr(hf, "layer_types", None)
    return getattr(hf, "sliding_window", None) if kinds is None or "sliding_attention" in kinds else None


def seen_by_us(config: ModelConfig) -> dict[str, Any]:
    fields = {name: value for name, value in vars(config).items() if name not in ("family", "architecture", "qk_norm", "shared_expert")}
    r = config.routing
    return dict(fields, routing=(r.num_experts, r.top_k, r.normalize_topk, r.num_groups, r.top_groups, r.scaling_factor))


def hf_config(raw: dict[str, Any]) -> Any:
    transformers = pytest.importorskip("transformers")
    names = {"mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe", "qwen2_moe": "Qwen2Moe", "olmoe": "Olmoe", "dots1": "Dots1"}
    return getattr(transformers, f"{names[raw['model_type']]}Config").from_dict(dict(raw))


@pytest.mark.transformers
@settings(max_examples=60, deadline=None)
@given(model_configs())
def test_transformers_reads_what_we_write_alike(config: ModelConfig):
    raw = through_json(families.family(config.family).to_hf(config))
    assert seen_by_transformers(hf_config(raw)) == seen_by_us(config)


OPTIONAL = (
    "head_dim sliding_window use_sliding_window decoder_sparse_step mlp_only_layers norm_topk_prob attention_bias tie_word_embeddings "
    "bos_token_id eos_token_id pad_token_id hidden_act qkv_bias n_group topk_group routed_scaling_factor first_k_dense_replace "
    "clip_qkv".split()
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
