"""What a call asks for, checked before anything runs, and where its tokens lie in the cache. numpy only.

A slot is one position of the cache, shared by all rows; in a ragged batch some slots of a row hold pads. X counts slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe_harness.implementations.interface import GenerationSpec, InvalidInput, PinnedRouting, Request, RoutingSpec, Unsupported

LOGITS, PADDING = ("all", "last", "none"), ("left", "right")
IGNORED = -100  # the label that HF's losses skip
WINDOW_OF_ONE = "a sliding window of 1 with a cache: transformers keeps every old position instead of none"


@dataclass(frozen=True)
class Chunk:
    """The tokens of one call. `valid_BS` is False at pads."""

    ids_BS: np.ndarray
    valid_BS: np.ndarray

    def last_B(self) -> np.ndarray:
        """Index within the chunk of each row's last valid token."""
        return self.valid_BS.shape[1] - 1 - np.argmax(self.valid_BS[:, ::-1], axis=1)


@dataclass(frozen=True)
class Slots:
    """Which slots hold a token, per row. Empty: shape (0, 0)."""

    valid_BX: np.ndarray

    @classmethod
    def empty(cls) -> Slots:
        return cls(np.zeros((0, 0), dtype=bool))

    def append(self, chunk: Chunk) -> Slots:
        return Slots(np.concatenate([self.valid_BX, chunk.valid_BS], axis=1) if self.valid_BX.size else chunk.valid_BS)

    def positions_BS(self, chunk: Chunk) -> np.ndarray:
        """The position of each token of a chunk about to be appended: the number of valid tokens before it in its row. A leading pad has
        the position of the first token, a later one that of the token before it; both are masked out."""
        before_B = self.valid_BX.sum(axis=1) if self.valid_BX.size else np.zeros(len(chunk.ids_BS), dtype=np.int64)
        return before_B[:, None] + np.maximum(np.cumsum(chunk.valid_BS, axis=1) - 1, 0)


def prefill_chunk(input_ids_BS: np.ndarray, lengths_B: np.ndarray, padding: str, vocab_size: int) -> Chunk:
    """Raises InvalidInput: not an integer matrix, empty, an id outside [0, V) (at a pad too), lengths outside 1..S."""
    ids_BS, lengths_B = np.asarray(input_ids_BS), np.asarray(lengths_B)
    if ids_BS.ndim != 2 or ids_BS.size == 0:
        raise InvalidInput(f"input_ids_BS has shape {ids_BS.shape}; a non-empty prompt of shape (B, S) is expected")
    _check_ids(ids_BS, vocab_size)
    B, S = ids_BS.shape
    if lengths_B.shape != (B,) or not np.issubdtype(lengths_B.dtype, np.integer):
        raise InvalidInput(f"lengths_B has shape {lengths_B.shape} and dtype {lengths_B.dtype}; {B} integers are expected")
    if lengths_B.min() < 1 or lengths_B.max() > S:
        raise InvalidInput(f"lengths_B {lengths_B.tolist()} leaves 1..{S}")
    if padding not in PADDING:
        raise InvalidInput(f"padding {padding!r}; known: {', '.join(PADDING)}")
    slot_S = np.arange(S)[None, :]
    valid_BS = slot_S < lengths_B[:, None] if padding == "right" else slot_S >= S - lengths_B[:, None]
    return Chunk(ids_BS.astype(np.int64), valid_BS)


def decode_chunk(token_ids_B: np.ndarray, vocab_size: int) -> Chunk:
    ids_B = np.asarray(token_ids_B)
    if ids_B.ndim != 1 or ids_B.size == 0:
        raise InvalidInput(f"token_ids_B has shape {ids_B.shape}; one token per row is expected")
    _check_ids(ids_B, vocab_size)
    return Chunk(ids_B.astype(np.int64)[:, None], np.ones((len(ids_B), 1), dtype=bool))


@dataclass(frozen=True)
class PackedRow:
    """Several sequences in one row. `ends`: where each ends."""

    chunk: Chunk
    positions_1T: np.ndarray
    ends: np.ndarray


def packed_row(input_ids_T: np.ndarray, cu_seqlens: np.ndarray, vocab_size: int, max_length: int) -> PackedRow:
    """Raises InvalidInput: ids that are no integer vector, empty or outside [0, V); `cu_seqlens` that do not rise from 0 to T; a sequence
    longer than `max_length`."""
    ids_T, bounds = np.asarray(input_ids_T), np.asarray(cu_seqlens)
    if ids_T.ndim != 1 or ids_T.size == 0:
        raise InvalidInput(f"input_ids_T has shape {ids_T.shape}; a non-empty stream of shape (T,) is expected")
    _check_ids(ids_T, vocab_size)
    if bounds.ndim != 1 or bounds.size < 2 or not np.issubdtype(bounds.dtype, np.integer):
        raise InvalidInput(f"cu_seqlens has shape {bounds.shape} and dtype {bounds.dtype}; at least two integers are expected")
    sizes: np.ndarray = bounds[1:].astype(np.int64) - bounds[:-1]
    if bounds[0] != 0 or bounds[-1] != len(ids_T) or sizes.min() < 1:
        raise InvalidInput(f"cu_seqlens {bounds.tolist()} does not rise from 0 to {len(ids_T)}")
    if sizes.max() > max_length:
        raise InvalidInput(f"a packed sequence of {sizes.max()}, loaded for max_length {max_length}")
    positions_T = np.arange(len(ids_T)) - np.repeat(bounds[:-1], sizes)
    chunk = Chunk(ids_T.astype(np.int64)[None], np.ones((1, len(ids_T)), dtype=bool))
    return PackedRow(chunk, positions_T[None], bounds[1:].astype(np.int64))


def loss_labels(labels_BS: np.ndarray, chunk: Chunk, vocab_size: int) -> np.ndarray:
    """The labels that count: -100 also where a label, or the token that predicts it, is a pad. Raises InvalidInput: not the integers of
    the ids' shape, outside [0, V) and not -100, or none left."""
    labels = np.asarray(labels_BS)
    if labels.shape != chunk.ids_BS.shape or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInput(f"labels_BS is {labels.dtype} of shape {labels.shape}; integers of shape {chunk.ids_BS.shape} are expected")
    predicted_BS = np.pad(chunk.valid_BS[:, 1:] & chunk.valid_BS[:, :-1], ((0, 0), (1, 0)))
    labels = np.where(predicted_BS, labels, IGNORED).astype(np.int64)
    if ((labels < 0) | (labels >= vocab_size))[labels != IGNORED].any():
        raise InvalidInput(f"labels reach from {labels.min()} to {labels.max()}; [0, {vocab_size}) and {IGNORED} are expected")
    if (labels == IGNORED).all():
        raise InvalidInput("no label is left to take the loss over")
    return labels


def _check_ids(ids: np.ndarray, vocab_size: int) -> None:
    if not np.issubdtype(ids.dtype, np.integer):
        raise InvalidInput(f"token ids have dtype {ids.dtype}; integers are expected")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise InvalidInput(f"token ids reach from {ids.min()} to {ids.max()}; [0, {vocab_size}) is expected")


def check_request(request: Request) -> None:
    if request.logits not in LOGITS:
        raise InvalidInput(f"logits {request.logits!r}; known: {', '.join(LOGITS)}")


def check_room(slots: Slots, chunk: Chunk, max_batch: int, max_length: int) -> None:
    """Raises InvalidInput when the batch is not the cache's or too large, or the slots run out. Pads take slots like tokens."""
    rows, held = slots.valid_BX.shape
    B, S = chunk.ids_BS.shape
    if rows not in (0, B):
        raise InvalidInput(f"batch of {B} rows, the cache holds {rows}")
    if max_batch < B:
        raise InvalidInput(f"batch of {B} rows, loaded for max_batch {max_batch}")
    if held + S > max_length:
        raise InvalidInput(f"{held} + {S} positions, loaded for max_length {max_length}")


def check_window(slots: Slots, chunk: Chunk, window: int | None) -> None:
    """Raises Unsupported where transformers' sliding window would be wrong. `slots`: with the chunk appended.

    It counts slots, so pads between the tokens of a row push tokens out of the window too early; a window that holds every slot hides
    nothing, and pads before a row's first or after its last token do no harm. And DynamicSlidingWindowLayer keeps the last window - 1
    slots as `keys[-window + 1:]`, which for a window of 1 is all of them instead of none (seen in transformers 5.23: wrong logits).
    """
    valid_BX = slots.valid_BX
    if window is None or valid_BX.shape[1] <= window:
        return
    if window == 1 and valid_BX.shape[1] > chunk.valid_BS.shape[1]:
        raise Unsupported(WINDOW_OF_ONE)
    pads_after_first_B = (~valid_BX & np.maximum.accumulate(valid_BX, axis=1)).sum(axis=1)
    pads_at_end_B = np.argmax(valid_BX[:, ::-1], axis=1)
    if (pads_after_first_B > pads_at_end_B).any():
        raise Unsupported(f"a sliding window of {window} with pads between the tokens of a row: transformers counts it in cache slots")


def check_pinned(pinned: PinnedRouting, layers: int, spec: RoutingSpec, valid_T: np.ndarray) -> PinnedRouting:
    """The pinned routing, safe to run: InvalidInput for a wrong shape, an expert outside [0, E) or a weight that is not finite. What stands
    at pads means nothing, so there bad entries are replaced (by expert 0 and weight 0) and good ones kept."""
    shape = (layers, len(valid_T), spec.top_k)
    ids_LTK = np.asarray(pinned.topk_ids_LTK)
    if ids_LTK.shape != shape or not np.issubdtype(ids_LTK.dtype, np.integer):
        raise InvalidInput(f"pinned topk_ids_LTK is {ids_LTK.dtype} of shape {ids_LTK.shape}; integers of shape {shape} are expected")
    good_LTK = (ids_LTK >= 0) & (ids_LTK < spec.num_experts)
    if not good_LTK[:, valid_T].all():
        raise InvalidInput(f"pinned topk_ids_LTK leaves [0, {spec.num_experts})")
    ids_LTK = np.where(good_LTK, ids_LTK, 0).astype(np.int64)
    return PinnedRouting(ids_LTK, None if pinned.topk_weights_LTK is None else _check_weights(pinned.topk_weights_LTK, shape, valid_T))


def _check_weights(weights: np.ndarray, shape: tuple[int, ...], valid_T: np.ndarray) -> np.ndarray:
    weights_LTK = np.asarray(weights, dtype=np.float32)
    if weights_LTK.shape != shape:
        raise InvalidInput(f"pinned topk_weights_LTK has shape {weights_LTK.shape}; {shape} is expected")
    if not np.isfinite(weights_LTK[:, valid_T]).all():
        raise InvalidInput("pinned topk_weights_LTK holds NaN or infinity")
    return np.where(np.isfinite(weights_LTK), weights_LTK, np.float32(0))


def check_generation(spec: GenerationSpec, chunk: Chunk, max_length: int, window: int | None) -> None:
    """Raises InvalidInput, and Unsupported as `check_window`. The last new token is not fed back, so N new tokens take N - 1 slots."""
    S, new = chunk.ids_BS.shape[1], spec.max_new_tokens
    if new < 1:
        raise InvalidInput(f"max_new_tokens {new}; at least 1 is expected")
    if S + new - 1 > max_length:
        raise InvalidInput(f"prompt of {S} and {new} new tokens, loaded for max_length {max_length}")
    if spec.temperature < 0 or spec.top_k < 0 or not 0 < spec.top_p <= 1:
        raise InvalidInput(f"temperature {spec.temperature}, top_k {spec.top_k} and top_p {spec.top_p}: >= 0, >= 0 and (0, 1] are expected")
    if window == 1 and new > 1:
        raise Unsupported(WINDOW_OF_ONE)
