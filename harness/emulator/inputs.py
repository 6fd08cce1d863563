"""The subject's declared features, and what the contract allows a caller to pass, checked before anything changes. Every check raises
InvalidInput and leaves the model usable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moe_harness.emulator.attention import valid_tokens
from moe_harness.emulator.cache import Cache
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.outputs import IGNORED
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import Call
from moe_harness.implementations.interface import (
    DTYPES,
    GenerationSpec,
    InvalidInput,
    LoadSpec,
    ModelConfig,
    PinnedRouting,
    Request,
    Unsupported,
)

FEATURES: tuple[str, ...] = tuple(
    "prefill decode reset chunked_prefill left_padding right_padding nan_pads pinned probe routing generate packed loss router slots "
    "capacity static".split()
)
FAMILIES = ("mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "dots1")
LOGITS = ("all", "last")


def declared_features() -> tuple[str, ...]:
    return FEATURES


def declared_logits() -> tuple[str, ...]:
    """What a Request may ask for, besides `none`."""
    return LOGITS


SIDES = ("left", "right")


def admit(call: Call, cache: Cache | None, config: ModelConfig, spec: LoadSpec, seams: Seams) -> tuple[Array, Array]:
    """(ids_BS, valid_BS) of a call that continues `cache`, all checks passed and nothing changed."""
    rows, used = (cache.rows, cache.used) if cache else (0, 0)
    if call.lengths_B is None:
        ids_BS = seams.calls.tokens("token_ids_B", call.ids, 1, config)[:, None]
        seams.calls.started(rows)
        valid_BS = np.ones(ids_BS.shape, bool)
    else:
        ids_BS = seams.calls.tokens("input_ids_BS", call.ids, 2, config)
        valid_BS = valid_tokens(seams.calls.lengths(call.lengths_B, *ids_BS.shape), ids_BS.shape[1], call.padding)
    slots = seams.calls.room(*ids_BS.shape, rows, used, spec)
    return ids_BS[:, :slots], valid_BS[:, :slots]


def _integers(name: str, array: Array, ndim: int) -> Array:
    array = np.asarray(array)
    if array.dtype.kind not in "iu" or array.ndim != ndim:
        raise InvalidInput(f"{name}: expected {ndim}-dimensional integers, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidInput(f"{name}: expected one of {', '.join(known)}, got {value!r}")


def load_spec(spec: LoadSpec) -> None:
    """Raises Unsupported for a dtype or device that is not there, InvalidInput for a size below one."""
    if spec.dtype not in DTYPES:
        raise Unsupported(f"dtype {spec.dtype}")
    if spec.device != "cpu":
        raise Unsupported(f"device {spec.device}: numpy runs on the CPU only")
    if spec.max_batch < 1 or spec.max_length < 1:
        raise InvalidInput(f"max_batch {spec.max_batch} and max_length {spec.max_length} must be at least 1")


def request(value: Request, seams: Seams) -> None:
    """Raises InvalidInput for what no Request says, Unsupported for a feature that is not declared."""
    _one_of("logits", value.logits, (*seams.calls.shown(), "none"))
    _one_of("padding", value.padding, SIDES)
    for feature, wanted in (("routing", value.routing), ("pinned", value.pinned is not None)):
        if wanted:
            needs(feature, seams)


def needs(feature: str, seams: Seams) -> None:
    if feature not in seams.calls.features():
        raise Unsupported(f"{feature} is not there")


def tokens(name: str, ids: Array, ndim: int, config: ModelConfig) -> Array:
    """The ids as int64: not empty, each in [0, V)."""
    ids = _integers(name, ids, ndim)
    if ids.size == 0:
        raise InvalidInput(f"{name}: empty, shape {ids.shape}")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise InvalidInput(f"{name}: an id in [{ids.min()}, {ids.max()}] lies outside [0, {config.vocab_size})")
    return ids


def lengths(lengths_B: Array, B: int, S: int) -> Array:
    lengths_B = _integers("lengths_B", lengths_B, 1)
    if lengths_B.shape != (B,) or lengths_B.min() < 1 or lengths_B.max() > S:
        raise InvalidInput(f"lengths_B: expected {B} lengths in 1..{S}, got {lengths_B.tolist()}")
    return lengths_B


def started(cached_rows: int) -> None:
    if cached_rows == 0:
        raise InvalidInput("decode before any prefill")


def boundaries(cu_seqlens: Array, T: int) -> Array:
    """cu_seqlens as int64: from 0 to T, rising."""
    cu = _integers("cu_seqlens", cu_seqlens, 1)
    if len(cu) < 2 or cu[0] != 0 or cu[-1] != T or (np.diff(cu) < 1).any():
        raise InvalidInput(f"cu_seqlens: expected to rise from 0 to {T}, got {cu.tolist()}")
    return cu


def labels(labels_BS: Array, shape: tuple[int, ...], config: ModelConfig) -> Array:
    """labels_BS as int64: each -100 or in [0, V)."""
    labels_BS = _shaped("labels_BS", _integers("labels_BS", labels_BS, 2), shape)
    if ((labels_BS != IGNORED) & ((labels_BS < 0) | (labels_BS >= config.vocab_size))).any():
        raise InvalidInput(f"labels_BS: neither {IGNORED} nor in [0, {config.vocab_size})")
    return labels_BS


def room(rows: int, slots: int, cached_rows: int, used: int, spec: LoadSpec) -> int:
    """How many of the slots are taken: all of them. `cached_rows` 0: the cache is empty. Slots count, pads included."""
    if cached_rows and rows != cached_rows:
        raise InvalidInput(f"batch of {rows} rows on a cache of {cached_rows}")
    if rows > spec.max_batch:
        raise InvalidInput(f"batch of {rows} rows, max_batch is {spec.max_batch}")
    if used + slots > spec.max_length:
        raise InvalidInput(f"{slots} positions after {used} exceed max_length {spec.max_length}")
    return slots


def pinned(value: PinnedRouting | None, num_layers: int, valid_T: Array, config: ModelConfig) -> PinnedRouting | None:
    """Shapes (L, T, K), ids in [0, E), weights finite where `valid_T`; entries at pads mean nothing and become expert 0, weight 0."""
    if value is None:
        return None
    shape, E = (num_layers, len(valid_T), config.routing.top_k), config.routing.num_experts
    ids_LTK = np.where(valid_T[None, :, None], _shaped("topk_ids_LTK", _integers("topk_ids_LTK", value.topk_ids_LTK, 3), shape), 0)
    if ids_LTK.size and (ids_LTK.min() < 0 or ids_LTK.max() >= E):
        raise InvalidInput(f"topk_ids_LTK: an id in [{ids_LTK.min()}, {ids_LTK.max()}] lies outside [0, {E})")
    if value.topk_weights_LTK is None:
        return PinnedRouting(ids_LTK)
    weights_LTK = _shaped("topk_weights_LTK", np.asarray(value.topk_weights_LTK, np.float32), shape)
    weights_LTK = np.where(valid_T[None, :, None], weights_LTK, np.float32(0))
    if not np.isfinite(weights_LTK).all():
        raise InvalidInput("topk_weights_LTK: not finite")
    return PinnedRouting(ids_LTK, weights_LTK)


def _shaped(name: str, array: Array, shape: Sequence[int]) -> Array:
    if array.shape != tuple(shape):
        raise InvalidInput(f"{name}: expected shape {tuple(shape)}, got {array.shape}")
    return array


def probe(layer: int, x_TD: Array, config: ModelConfig, rounding: Rounding) -> Array:
    """x_TD as it came: a known MoE layer, float32, D columns, every value one of the model's dtype (NaN passes)."""
    if not 0 <= layer < len(config.moe_layers):
        raise InvalidInput(f"layer {layer}: there are {len(config.moe_layers)} MoE layers")
    return hidden_states(x_TD, config.hidden_size, rounding)


def hidden_states(x_TD: Array, D: int, rounding: Rounding) -> Array:
    x_TD = np.asarray(x_TD)
    if x_TD.dtype != np.float32 or x_TD.ndim != 2 or x_TD.shape[1] != D:
        raise InvalidInput(f"x_TD: expected float32 of shape (T, {D}), got {x_TD.dtype} of shape {x_TD.shape}")
    if not np.array_equal(rounding(x_TD), x_TD, equal_nan=True):
        raise InvalidInput(f"x_TD: not every value is exactly representable in {rounding.dtype}")
    return x_TD


def generation(spec: GenerationSpec) -> None:
    if not (spec.temperature >= 0 and spec.top_k >= 0 and 0 < spec.top_p <= 1):
        raise InvalidInput(f"temperature {spec.temperature}, top_k {spec.top_k}, top_p {spec.top_p}: expected >= 0, >= 0, in (0, 1]")
