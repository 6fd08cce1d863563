"""Faults of going on: chunks, refused calls, resets, windows at their edges. All are right for one prompt followed by decode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moe_harness.emulator import attention, cache, inputs
from moe_harness.emulator.cache import Cache
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.seams import Seams, changed
from moe_harness.emulator.values import Call, KeyView, Tables
from moe_harness.implementations.interface import InvalidInput, LoadSpec, ModelConfig
from moe_harness.mutants.entries.attention import WINDOW
from moe_harness.mutants.entry import Fault, change, setting, where

FLASH_BLOCK = 16
Admitted = tuple[Array, Array]


def single_token_is_decode(valid_BS: Array, start_B: Array, used: int) -> Array:
    positions_BS = attention.prefill_positions(valid_BS, start_B, used)
    return positions_BS - 1 if valid_BS.shape[1] == 1 and used else positions_BS


def long_chunks_see_themselves(view: KeyView) -> Array:
    mask_BQM, Q = attention.visible_keys(view), view.query_BQ.shape[1]
    if not view.decoding and Q >= FLASH_BLOCK:
        mask_BQM[:, :, :-Q] = False
    return mask_BQM


def third_chunk_from_slots(seams: Seams) -> Seams:
    """The counter of chunks is 1 for the second and all later ones: the third starts where the second did."""
    starts: dict[str, Array] = {}

    def positions(valid_BS: Array, start_B: Array, used: int) -> Array:
        if used == 0:
            starts.clear()
        elif "second" not in starts:
            starts["second"] = start_B.copy()
        return attention.prefill_positions(valid_BS, starts.get("second", start_B), used)

    return changed(seams, prefill_positions=positions)


def late_after_decode(seams: Seams) -> Seams:
    """A decode leaves its token to be written by the next call; a prefill that follows starts one position early."""
    pending = [False]

    def decode(start_B: Array, used: int) -> Array:
        pending[0] = True
        return attention.decode_positions(start_B, used)

    def prefill(valid_BS: Array, start_B: Array, used: int) -> Array:
        early, pending[0] = int(pending[0] and used > 0), False
        return attention.prefill_positions(valid_BS, start_B - early, used)

    return changed(seams, decode_positions=decode, prefill_positions=prefill)


def lazy_reset(seams: Seams) -> Seams:
    """Reset only marks the cache; the prefill kernel clears it, but a prompt of one token does not go through that kernel."""
    marked: set[int] = set()

    def admit(call: Call, where_to: Cache | None, config: ModelConfig, spec: LoadSpec, seams: Seams) -> Admitted:
        if where_to is not None and id(where_to) in marked:
            marked.discard(id(where_to))
            if call.lengths_B is None or np.shape(call.ids)[-1] > 1:
                cache.reset(where_to)
        return inputs.admit(call, where_to, config, spec, seams)

    return changed(seams, reset=lambda where_to: marked.add(id(where_to)), admit=admit)


def counter_first(call: Call, where_to: Cache | None, config: ModelConfig, spec: LoadSpec, seams: Seams) -> Admitted:
    try:
        return inputs.admit(call, where_to, config, spec, seams)
    except InvalidInput:
        if where_to is not None and where_to.used:
            where_to.next_B += 1
        raise


def clears_on_error(call: Call, where_to: Cache | None, config: ModelConfig, spec: LoadSpec, seams: Seams) -> Admitted:
    try:
        return inputs.admit(call, where_to, config, spec, seams)
    except InvalidInput:
        if where_to is not None:
            cache.reset(where_to)
        raise


def slots_first(call: Call, where_to: Cache | None, config: ModelConfig, spec: LoadSpec, seams: Seams) -> Admitted:
    """The newest slot is given back to the pool before the ids are looked at."""
    try:
        return inputs.admit(call, where_to, config, spec, seams)
    except InvalidInput:
        if where_to is not None and where_to.used and call.lengths_B is None:
            where_to.valid_BM[:, where_to.used - 1] = False
        raise


def ring_of_prompt_size(seams: Seams) -> Seams:
    """The window's ring is as large as the prompt where that is shorter, and never grows."""
    size = [0]

    def mask(view: KeyView) -> Array:
        if view.window is None:
            return attention.visible_keys(view)
        if not view.decoding:
            size[0] = view.key_BM.shape[1]
        return attention.visible_keys(replace(view, window=min(view.window, size[0])) if view.decoding else view)

    return changed(seams, visible_keys=mask)


def window_decided_by_prompt(seams: Seams) -> Seams:
    """Whether a window is needed is decided once, by the prompt: one that fits decodes without."""
    needed = [False]

    def mask(view: KeyView) -> Array:
        if view.window is None:
            return attention.visible_keys(view)
        if not view.decoding:
            needed[0] = view.key_BM.shape[1] > view.window
        return attention.visible_keys(view if needed[0] or not view.decoding else replace(view, window=None))

    return changed(seams, visible_keys=mask)


def full_prompt_loses_oldest(view: KeyView) -> Array:
    """`>=` for `>`: a prompt of exactly the window's size is rolled."""
    mask_BQM = attention.visible_keys(view)
    if view.window is not None and view.query_BQ.shape[1] == view.window and not view.decoding:
        mask_BQM[:, 1:, 0] = False
    return mask_BQM


def positions_in_ring(positions_BS: Array, config: ModelConfig, rounding: Rounding) -> Tables:
    """RoPE tables of four windows, indexed round and round."""
    around = positions_BS % (4 * config.sliding_window) if config.sliding_window else positions_BS
    return attention.rope_tables(around, config, rounding)


def eps_of_1e_6(config: ModelConfig) -> float:
    return 1e-6


def emptied(kept: Cache | None) -> None:
    if kept is not None:
        cache.reset(kept)


FAULTS: tuple[Fault, ...] = (
    Fault("probe-empties-the-cache", "A helper for debugging runs the model's forward and resets it first.",
          None, change(probed=emptied), ("CACHE-07",)),
    Fault("epsilon-of-1e-6", "The norms' epsilon is the literal 1e-6: of no account for hidden states of unit scale.",
          None, change(epsilon=eps_of_1e_6), ("PARITY-06",),
          needs=where(lambda config: config.rms_norm_eps != 1e-6, setting(rms_norm_eps=0.3))),
    Fault("chunk-of-one-is-decode", "A chunk of one token takes the decode path, which counts the token before it twice.",
          None, change(prefill_positions=single_token_is_decode), ("CACHE-04",), trigger="a later chunk of one token"),
    Fault("long-chunks-forget", "Chunks of 16 tokens or more go through a kernel that sees the chunk only.",
          None, change(visible_keys=long_chunks_see_themselves), ("CACHE-03", "CACHE-04"), trigger="a later chunk of 16 tokens"),
    Fault("third-chunk-overlaps", "The offset of the second chunk serves for all later ones.",
          None, third_chunk_from_slots, ("CACHE-04",), trigger="three chunks"),
    Fault("chunk-after-decode-early", "A chunk after a decode starts one position early.",
          None, late_after_decode, ("CACHE-06",), trigger="prefill, decode, prefill"),
    Fault("lazy-reset-skips-one-token", "Reset is carried out by the next prefill, but not by one of a single token.",
          None, lazy_reset, ("CACHE-06",), trigger="a reset, then a prompt of one token"),
    Fault("counter-before-checks", "The position counter moves before the call is checked.",
          None, change(admit=counter_first), ("CACHE-05",), trigger="a refused call within a sequence"),
    Fault("error-clears-cache", "A refused call clears the cache.",
          None, change(admit=clears_on_error), ("CACHE-05",), trigger="a refused call within a sequence"),
    Fault("slot-freed-before-checks", "A refused decode takes the newest token out of the mask.",
          None, change(admit=slots_first), ("CACHE-05",), trigger="a refused decode"),
    Fault("ring-as-large-as-prompt", "The window's ring is allocated for the prompt where that is shorter than the window.",
          None, ring_of_prompt_size, ("WINDOW-02",), needs=WINDOW, trigger="a prompt shorter than the window, then decode"),
    Fault("window-decided-by-prompt", "A prompt that fits into the window is decoded without one.",
          None, window_decided_by_prompt, ("WINDOW-02",), needs=WINDOW, trigger="a prompt within the window, decode past its edge"),
    Fault("full-prompt-rolled", "A prompt of exactly the window's size loses its first token.",
          None, change(visible_keys=full_prompt_loses_oldest), ("WINDOW-02",), needs=WINDOW, trigger="a prompt of w tokens"),
    Fault("rope-tables-of-four-windows", "RoPE tables hold four windows and are indexed round and round.",
          None, change(rope_tables=positions_in_ring), ("WINDOW-03",), needs=WINDOW, trigger="positions beyond four windows"),
)  # fmt: skip
