"""Faults of the contract: what is declared, and what is let in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moe_harness.emulator import inputs
from moe_harness.emulator.attention import valid_tokens
from moe_harness.emulator.cache import Cache
from moe_harness.emulator.numerics import Array
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import Call
from moe_harness.implementations.interface import InvalidInput, LoadSpec, ModelCapabilities, ModelConfig, Unsupported
from moe_harness.mutants.entries.attention import WINDOW
from moe_harness.mutants.entry import Fault, change

Admitted = tuple[Array, Array]


def _describe(**changes: object) -> Callable[[ModelConfig], ModelCapabilities]:
    return lambda config: replace(ModelCapabilities.of(config), **changes)  # type: ignore[arg-type]


def without_chunks() -> tuple[str, ...]:
    return tuple(name for name in inputs.declared_features() if name != "chunked_prefill")


def no_second_prefill(call: Call, cache: Cache | None, config: ModelConfig, spec: LoadSpec, seams: Seams) -> Admitted:
    if call.lengths_B is not None and cache is not None and cache.rows:
        raise Unsupported("a second prefill")
    return inputs.admit(call, cache, config, spec, seams)


def wraps_round(name: str, ids: Array, ndim: int, config: ModelConfig) -> Array:
    """Only the upper end is checked; numpy counts negative ids from the end."""
    ids = np.asarray(ids)
    inputs.tokens(name, np.maximum(ids, 0) if ids.dtype.kind in "iu" else ids, ndim, config)
    return ids.astype(np.int64)


def clipped(name: str, ids: Array, ndim: int, config: ModelConfig) -> Array:
    ids = np.asarray(ids)
    return inputs.tokens(name, ids.clip(0, config.vocab_size - 1) if ids.dtype.kind in "iu" else ids, ndim, config)


def truncated(name: str, ids: Array, ndim: int, config: ModelConfig) -> Array:
    return inputs.tokens(name, np.asarray(ids).astype(np.int64), ndim, config)


def mute(name: str, ids: Array, ndim: int, config: ModelConfig) -> Array:
    try:
        return inputs.tokens(name, ids, ndim, config)
    except InvalidInput:
        raise InvalidInput from None


def an_index_error(name: str, ids: Array, ndim: int, config: ModelConfig) -> Array:
    try:
        return inputs.tokens(name, ids, ndim, config)
    except InvalidInput as error:
        raise IndexError(str(error)) from error


def empty_is_fine(name: str, ids: Array, ndim: int, config: ModelConfig) -> Array:
    ids = np.asarray(ids)
    return inputs.tokens(name, ids, ndim, config) if ids.size or ids.ndim != ndim else ids.astype(np.int64)


def pads_not_looked_at(call: Call, cache: Cache | None, config: ModelConfig, spec: LoadSpec, seams: Seams) -> Admitted:
    ids, lengths_B = np.asarray(call.ids), np.asarray(call.lengths_B)
    if ids.ndim == 2 and ids.dtype.kind in "iu" and lengths_B.shape == ids.shape[:1]:
        call = replace(call, ids=np.where(valid_tokens(lengths_B, ids.shape[1], call.padding), ids, 0))
    return inputs.admit(call, cache, config, spec, seams)


def empty_rows_are_fine(lengths_B: Array, B: int, S: int) -> Array:
    lengths_B = np.asarray(lengths_B)
    inputs.lengths(np.where(lengths_B == 0, 1, lengths_B), B, max(S, 1))
    return lengths_B.astype(np.int64)


def lengths_clipped(lengths_B: Array, B: int, S: int) -> Array:
    lengths_B = np.asarray(lengths_B)
    return inputs.lengths(lengths_B.clip(1, S) if lengths_B.dtype.kind in "iu" else lengths_B, B, S)


def lengths_broadcast(lengths_B: Array, B: int, S: int) -> Array:
    return inputs.lengths(np.broadcast_to(lengths_B, (B,)) if np.size(lengths_B) == 1 else lengths_B, B, S)


def lengths_rounded(lengths_B: Array, B: int, S: int) -> Array:
    return inputs.lengths(np.asarray(lengths_B).astype(np.int64), B, S)


def cut_off(rows: int, slots: int, cached_rows: int, used: int, spec: LoadSpec) -> int:
    return inputs.room(rows, min(slots, spec.max_length - used), cached_rows, used, spec)


def any_number_of_rows(rows: int, slots: int, cached_rows: int, used: int, spec: LoadSpec) -> int:
    return inputs.room(min(rows, spec.max_batch), slots, cached_rows, used, spec)


def other_batch_starts_anew(rows: int, slots: int, cached_rows: int, used: int, spec: LoadSpec) -> int:
    return inputs.room(rows, slots, cached_rows if rows == cached_rows else 0, used, spec)


def boundaries_mended(cu_seqlens: Array, T: int) -> Array:
    """Sorted, made distinct, cut to the stream and completed."""
    return np.unique(np.concatenate([[0, T], np.asarray(cu_seqlens, np.int64).clip(0, T)]))


def never_asked(cached_rows: int) -> None:
    """Decode on an empty cache attends to itself alone."""


CAPABILITIES: tuple[Fault, ...] = (
    Fault("declares-two-experts-per-token", "Mixtral's K is declared for every model.",
          None, change(describe=_describe(experts_per_token=2)), ("CAP-01", "CAP-02"), families=("qwen3_moe", "olmoe", "dots1")),
    Fault("declares-eight-experts", "Mixtral's E is declared for every model.",
          None, change(describe=_describe(num_experts=8)), ("CAP-01", "CAP-02")),
    Fault("declares-a-window", "A default window is declared, whatever the config says.",
          None, change(describe=_describe(sliding_window=4096)), ("CAP-01",)),
    Fault("declares-normalised-weights", "norm_topk_prob is declared as true for all.",
          None, change(describe=_describe(norm_topk_prob=True)), ("CAP-01",), families=("qwen2_moe", "olmoe")),
    Fault("declares-no-positions", "uses_position is false although RoPE is there.",
          None, change(describe=_describe(uses_position=False)), ("CAP-01", "CAP-02")),
    Fault("declares-quantised", "A flag left from another model.", None, change(describe=_describe(is_quantized=True)), ("CAP-01",)),
    Fault("declares-no-window-and-has-one", "The window works, but is not declared.",
          None, change(describe=_describe(sliding_window=None)), ("CAP-02",), needs=WINDOW),
    Fault("declares-fewer-features", "chunked_prefill works and is not declared.", None, change(features=without_chunks), ("CAP-03",)),
    Fault("declares-more-features", "chunked_prefill is declared, and a second prefill raises Unsupported.",
          None, change(admit=no_second_prefill), ("CAP-03",)),
)  # fmt: skip

IDS: tuple[Fault, ...] = (
    Fault("negative-ids-wrap", "An id of -1 reads the last row of the embedding.", None, change(tokens=wraps_round), ("INPUT-02",)),
    Fault("ids-clipped", "Ids out of range are clipped to the table.", None, change(tokens=clipped), ("INPUT-02",)),
    Fault("ids-at-pads-unchecked", "Ids are checked where they are valid only.",
          None, change(admit=pads_not_looked_at), ("INPUT-02",), trigger="an id out of range at a pad"),
    Fault("float-ids-truncated", "Floats are cast to integers.", None, change(tokens=truncated), ("INPUT-04",)),
    Fault("errors-without-message", "InvalidInput comes without a word.", None, change(tokens=mute), ("INPUT-02", "INPUT-04")),
    Fault("index-error-for-invalid-input", "The lookup's own IndexError comes through.",
          None, change(tokens=an_index_error), ("INPUT-01", "INPUT-02")),
    Fault("empty-prompt-unchecked", "An empty array passes the checks.", None, change(tokens=empty_is_fine), ("INPUT-01",)),
    Fault("empty-row-accepted", "A row of length 0 is run on its pads.", None, change(lengths=empty_rows_are_fine), ("INPUT-01",)),
)  # fmt: skip

SIZES: tuple[Fault, ...] = (
    Fault("too-long-cut-off", "A prompt longer than max_length is cut off.", None, change(room=cut_off), ("INPUT-03",)),
    Fault("any-number-of-rows", "max_batch is not checked.", None, change(room=any_number_of_rows), ("INPUT-03",)),
    Fault("decode-on-empty-cache", "Decode before any prefill attends to its own token.",
          None, change(started=never_asked), ("INPUT-05",)),
    Fault("lengths-clipped", "Lengths are clipped to the row.", None, change(lengths=lengths_clipped), ("INPUT-06",)),
    Fault("lengths-broadcast", "One length serves for all rows.", None, change(lengths=lengths_broadcast), ("INPUT-06",)),
    Fault("lengths-truncated", "Fractional lengths are cast to integers.", None, change(lengths=lengths_rounded), ("INPUT-06",)),
    Fault("offsets-mended", "cu_seqlens that do not fit are sorted, cut and completed in silence.",
          None, change(boundaries=boundaries_mended), ("PACK-03",)),
    Fault("other-batch-starts-anew", "Another number of rows silently empties the cache.",
          None, change(room=other_batch_starts_anew), ("INPUT-06", "CACHE-05")),
)  # fmt: skip

FAULTS = CAPABILITIES + IDS + SIZES
