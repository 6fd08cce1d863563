"""Whether an exhibit that was read from a file fits together: shapes, ids, sizes. A hostile one must not fill the memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import comb, prod

import numpy as np

from moe_harness.implementations import families
from moe_harness.implementations.families.weights import canonical_shapes
from moe_harness.implementations.interface import DTYPES, ModelConfig
from moe_harness.judge.exhibit import BLOCK, MODEL, PREFIX, RECORD, ROUTER, SECOND, Exhibit, is_experts
from moe_harness.judge.metric import BLOCK as BLOCK_METRICS
from moe_harness.judge.metric import PASS

MOST_VALUES = 300_000_000  # of any array made from the config: experts that were left out, attention scores
MOST_GROUP_SETS = 20_000  # that a certificate goes through
Shape = tuple[int, ...]


def complaint(exhibit: Exhibit) -> str:
    """What is wrong, or ""."""
    try:
        return next(_complaints(exhibit), "")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, OverflowError) as error:
        return f"{type(error).__name__}: {error}"


def _complaints(exhibit: Exhibit) -> Iterator[str]:
    if exhibit.dtype not in DTYPES:
        yield f"dtype {exhibit.dtype!r}"
    if exhibit.kind == RECORD:
        return
    if exhibit.config is None:
        yield "no config"
        return
    yield from _config_complaints(exhibit.config)
    yield from _tensor_complaints(exhibit, exhibit.config)
    check = {ROUTER: _router_complaints, BLOCK: _block_complaints, MODEL: _model_complaints}
    yield from check[exhibit.kind](exhibit, exhibit.config)


def _config_complaints(config: ModelConfig) -> Iterator[str]:
    spec = config.routing
    sizes = [config.vocab_size, config.hidden_size, config.moe_intermediate_size, config.num_hidden_layers, config.num_attention_heads]
    sizes += [config.num_key_value_heads, config.head_dim, config.max_position_embeddings, spec.num_experts, spec.top_k, spec.num_groups]
    if not all(type(size) is int and 0 < size < 2**24 for size in sizes):
        yield "a size in its config is not a positive number"
    elif spec.top_k > spec.num_experts or spec.num_experts % spec.num_groups or not 0 < spec.top_groups <= spec.num_groups:
        yield "its routing contradicts itself"
    elif comb(spec.num_groups, spec.top_groups) > MOST_GROUP_SETS:
        yield "its routing has too many groups"
    elif config.num_attention_heads % config.num_key_value_heads or config.num_hidden_layers > 1000:
        yield "its config contradicts itself"
    elif config.family not in families.families() | families.routing_families():
        yield f"family {config.family!r} is not known"
    elif not config.moe_layers or not all(type(i) is int and 0 <= i < config.num_hidden_layers for i in config.moe_layers):
        yield "its MoE layers are not layers"
    elif max(prod(shape) for shape in canonical_shapes(config).values()) > MOST_VALUES:
        yield "its config asks for too large a tensor"


def _tensor_complaints(exhibit: Exhibit, config: ModelConfig) -> Iterator[str]:
    shapes = canonical_shapes(config, "lm_head.weight" in exhibit.tensors)
    experts = exhibit.experts
    if experts is not None and (len(set(experts)) != len(experts) or not all(0 <= e < config.routing.num_experts for e in experts)):
        yield "its list of experts"
    for name, tensor in exhibit.tensors.items():
        wanted = shapes.get(name)
        if wanted is not None and experts is not None and is_experts(name):
            wanted = (len(experts), *wanted[1:])
        if tensor.shape != wanted:
            yield f"weight {name!r} has shape {tensor.shape}, its config asks for {wanted}"
        if tensor.dtype.name not in DTYPES:
            yield f"weight {name!r} is {tensor.dtype.name}"
    if exhibit.kind == MODEL and exhibit.tensors and (missing := shapes.keys() - exhibit.tensors.keys()):
        yield f"weight {min(missing)!r} is missing"


def _shape_complaints(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Shape], optional: tuple[str, ...]) -> Iterator[str]:
    for name, shape in wanted.items():
        if name not in arrays:
            if name not in optional:
                yield f"array {name!r} is missing"
        elif arrays[name].shape != shape:
            yield f"array {name!r} has shape {arrays[name].shape}, expected {shape}"
    integer = [name for name in arrays if name.endswith(("ids_TK", "ids_LSK", "pinned_ids", ".ids", "input_ids_S", "lengths"))]
    yield from (f"array {name!r} does not hold integers" for name in integer if arrays[name].dtype.kind != "i")


def _router_complaints(exhibit: Exhibit, config: ModelConfig) -> Iterator[str]:
    E, K = config.routing.num_experts, config.routing.top_k
    for prefix in ("", SECOND) if f"{SECOND}x_TD" in exhibit.arrays else ("",):
        T = len(exhibit.arrays[f"{prefix}x_TD"])
        wanted = {"x_TD": (T, config.hidden_size), "ids_TK": (T, K), "weights_TK": (T, K), "logits_TE": (T, E)}
        yield from _shape_complaints(exhibit.arrays, {prefix + n: shape for n, shape in wanted.items()}, (f"{prefix}logits_TE",))
    yield from _layer_complaints(exhibit, config, ("router.weight",))


def _block_complaints(exhibit: Exhibit, config: ModelConfig) -> Iterator[str]:
    T, D, K = len(exhibit.arrays["x_TD"]), config.hidden_size, config.routing.top_k
    wanted = {"x_TD": (T, D), "ids_TK": (T, K), "y_TD": (T, D), "judged_T": (T,), "weights_TK": (T, K), "expected_TD": (T, D)}
    yield from (f"no limit of {name}" for name in BLOCK_METRICS if name not in exhibit.limits)
    yield from _shape_complaints(exhibit.arrays, wanted, ("weights_TK", "expected_TD") if exhibit.tensors else ("weights_TK",))
    ids_TK = exhibit.arrays["ids_TK"]
    if ids_TK.size and not (ids_TK.min() >= 0 and ids_TK.max() < config.routing.num_experts):
        yield "an expert id is out of range"
    yield from _layer_complaints(exhibit, config, ("router.weight", "gate_up.weight", "down.weight") if exhibit.tensors else ())


def _layer_complaints(exhibit: Exhibit, config: ModelConfig, parts: tuple[str, ...]) -> Iterator[str]:
    if config.moe_layers != (0,):
        yield "a router's or block's config has one MoE layer"
    spec = config.routing
    parts += ("router.bias",) * (spec.router_bias and bool(parts)) + ("router.correction_bias",) * (spec.correction_bias and bool(parts))
    yield from (f"weight {PREFIX + part!r} is missing" for part in parts if PREFIX + part not in exhibit.tensors)


def _model_complaints(exhibit: Exhibit, config: ModelConfig) -> Iterator[str]:
    facts, arrays = exhibit.facts, exhibit.arrays
    if facts["row"] not in facts["rows"]:
        yield "the judged row is not among its rows"
    for i, call in enumerate(facts["calls"]):
        ids = arrays[f"call{i}.ids"]
        if call["kind"] not in ("prefill", "decode", "packed", "reset") or call["padding"] not in ("left", "right") or ids.ndim != 2:
            yield f"call {i}"
        elif ids.size and not (ids.min() >= 0 and ids.max() < config.vocab_size):
            yield f"a token id of call {i} is out of range"
    for row in facts["rows"]:
        yield from _row_complaints(exhibit, config, f"row{row}.")


def _row_complaints(exhibit: Exhibit, config: ModelConfig, row: str) -> Iterator[str]:
    L, E, K, S = len(config.moe_layers), config.routing.num_experts, config.routing.top_k, len(exhibit.arrays[f"{row}input_ids_S"])
    kept = exhibit.facts.get("kept_positions", range(S))
    yield from (f"no limit of {row}{name}" for name in PASS if f"{row}{name}" not in exhibit.limits and name != "median_kl_nats")
    wanted = {"input_ids_S": (S,), "logits_SV": (len(kept), config.vocab_size), "ids_LSK": (L, S, K)}
    wanted |= {"weights_LSK": (L, S, K), "router_logits_LSE": (L, S, E)}
    optional = tuple(row + name for name in ("ids_LSK", "weights_LSK", "router_logits_LSE"))
    yield from _shape_complaints(exhibit.arrays, {row + name: shape for name, shape in wanted.items()}, optional)
    if S * S * config.num_attention_heads > MOST_VALUES:
        yield f"{row}input_ids_S is too long"
    tokens_S, ids = exhibit.arrays[f"{row}input_ids_S"], exhibit.arrays.get(f"{row}ids_LSK")
    if tokens_S.size and not (tokens_S.min() >= 0 and tokens_S.max() < config.vocab_size):
        yield f"a token id of {row}input_ids_S is out of range"
    if ids is not None and ids.size and not (ids.min() >= 0 and ids.max() < E):
        yield f"an expert id of {row}ids_LSK is out of range"
