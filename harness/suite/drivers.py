"""Ways of driving a model through a batch, each giving one `Trace` per row.

Legend: B batch, S sequence, V vocabulary, L MoE layers, K top-k.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moe_harness.implementations.interface import Model, Packed, PinnedRouting, Request, Routing, Slots, StepOutput
from moe_harness.judge.distance import relative_rms
from moe_harness.judge.metric import Metric
from moe_harness.suite.subject import Subject


@dataclass(frozen=True)
class Call:
    """One call of a model. `kind`: prefill | decode | packed | reset; `lengths`: of the rows, or the offsets of packed sequences."""

    kind: str
    ids: np.ndarray
    lengths: np.ndarray | None = None
    padding: str = "right"
    pinned: PinnedRouting | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """By the names under which an exhibit holds them."""
        pinned = (None, None) if self.pinned is None else (self.pinned.topk_ids_LTK, self.pinned.topk_weights_LTK)
        return _present(ids=self.ids, lengths=self.lengths, pinned_ids=pinned[0], pinned_weights=pinned[1])


@dataclass(frozen=True)
class Trace:
    """One row's valid positions: what went in, what came out, which experts were used and how they were weighed. `ids_LSK` None: routing
    is not shown. `calls`: those that all rows came from; `row`: which of their rows (or packed sequences) this one is."""

    input_ids_S: np.ndarray
    logits_SV: np.ndarray
    ids_LSK: np.ndarray | None
    weights_LSK: np.ndarray | None
    router_logits_LSE: np.ndarray | None
    calls: tuple[Call, ...] = ()
    row: int = 0

    def arrays(self) -> dict[str, np.ndarray]:
        """By the names under which an exhibit holds them."""
        routing = {"ids_LSK": self.ids_LSK, "weights_LSK": self.weights_LSK, "router_logits_LSE": self.router_logits_LSE}
        return _present(input_ids_S=self.input_ids_S, logits_SV=self.logits_SV, **routing)


def _present(**arrays: np.ndarray | None) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if array is not None}


def request(subject: Subject, padding: str = "right") -> Request:
    """All logits, and the routing where the backend can show it. Raises Unsupported where all logits are not shown."""
    subject.needs_logits("all")
    return Request(logits="all", routing="routing" in subject.capabilities.features, padding=padding)


def pinned_request(subject: Subject, tokens: int, padding: str = "right", seed: int = 0) -> Request:
    """All logits, with arbitrary experts pinned: the loads of the experts, and so the shapes of their matrix products, are then the same
    whatever the tokens say. Only then must the bits of one row not depend on another's content."""
    subject.needs_logits("all")
    spec, layers = subject.config.routing, len(subject.config.moe_layers)
    ranks = subject.random(seed).random((layers, tokens, spec.num_experts))
    return Request(logits="all", padding=padding, pinned=PinnedRouting(np.argsort(ranks)[..., : spec.top_k].copy()))


def prefill(model: Model, input_ids_BS: np.ndarray, request: Request, lengths_B: np.ndarray | None = None) -> list[Trace]:
    """One prefill of the whole batch."""
    B, S = input_ids_BS.shape
    lengths_B = np.full(B, S) if lengths_B is None else lengths_B
    out = model.prefill(input_ids_BS, lengths_B, request)
    call = Call("prefill", input_ids_BS, lengths_B, request.padding, request.pinned)
    return [_row(out, call, b, valid(S, int(lengths_B[b]), request.padding)) for b in range(B)]


def in_chunks(model: Model, input_ids_BS: np.ndarray, sizes: list[int], request: Request) -> list[Trace]:
    """Consecutive prefills of `sizes` tokens each, then one of the rest."""
    chunks = np.split(input_ids_BS, np.cumsum(sizes), axis=1)
    traces = [prefill(model, np.ascontiguousarray(chunk), request) for chunk in chunks if chunk.shape[1]]
    return [join(list(rows)) for rows in zip(*traces, strict=True)]


def decode(model: Model, token_ids_B: np.ndarray, request: Request) -> list[Trace]:
    """One decode call."""
    token_ids_B = np.ascontiguousarray(token_ids_B)
    out = model.decode(token_ids_B, request)
    call = Call("decode", token_ids_B[:, None], padding=request.padding, pinned=request.pinned)
    return [_row(out, call, b, slice(0, 1)) for b in range(len(token_ids_B))]


def prefill_slots(model: Slots, input_ids_BS: np.ndarray, lengths_B: np.ndarray, slots_B: np.ndarray, request: Request) -> list[Trace]:
    """Begins a request in each slot; no exhibit can repeat it."""
    out = model.prefill_slots(input_ids_BS, lengths_B, slots_B, request)
    call, S = Call("prefill", input_ids_BS, lengths_B, request.padding), input_ids_BS.shape[1]
    return [_row(out, call, b, valid(S, int(length), request.padding)) for b, length in enumerate(lengths_B)]


def decode_slots(model: Slots, token_ids_B: np.ndarray, slots_B: np.ndarray, request: Request) -> list[Trace]:
    """A token for each slot; no exhibit can repeat it."""
    out = model.decode_slots(token_ids_B, slots_B, request)
    return [_row(out, Call("decode", token_ids_B[:, None]), b, slice(0, 1)) for b in range(len(token_ids_B))]


def packed(model: Packed, sequences: list[np.ndarray], request: Request) -> list[Trace]:
    """All sequences in one row; a trace for each."""
    cu_seqlens = np.cumsum([0, *map(len, sequences)])
    stream_1T = np.concatenate(sequences)[None]
    out = model.prefill_packed(stream_1T[0], cu_seqlens, request)
    call = Call("packed", stream_1T, cu_seqlens, pinned=request.pinned)
    spans = [slice(int(a), int(b)) for a, b in zip(cu_seqlens, cu_seqlens[1:], strict=False)]
    return [replace(_row(out, call, 0, span), row=i) for i, span in enumerate(spans)]


def after_reset(earlier: list[Trace], traces: list[Trace]) -> list[Trace]:
    """The traces, knowing what the cache held before."""
    reset = Call("reset", np.zeros((0, 0), np.int64))
    return [replace(trace, calls=(*earlier[0].calls, reset, *trace.calls)) for trace in traces]


def changes(before: list[Trace], after: list[Trace]) -> tuple[Metric, Metric]:
    """How many logits differ in any bit, of which none may (NaN equals NaN), and by how much, of their RMS."""
    one, other = (np.concatenate([trace.logits_SV for trace in traces]) for traces in (before, after))
    changed = int(np.sum(one.view(np.uint32) != other.view(np.uint32)))
    return Metric("changed_logits", changed, 0), Metric("change", relative_rms(other, one))


def prefill_and_decode(
    model: Model, input_ids_BS: np.ndarray, prompt_lengths_B: np.ndarray, steps: int, request: Request, continuations_BS: np.ndarray
) -> list[Trace]:
    """A (ragged) prefill, then `steps` decode calls fed with `continuations_BS` (teacher forcing)."""
    traces = [prefill(model, input_ids_BS, request, prompt_lengths_B)]
    traces += [decode(model, continuations_BS[:, step], request) for step in range(steps)]
    return [join(list(rows)) for rows in zip(*traces, strict=True)]


def valid(length: int, valid_tokens: int, padding: str) -> slice:
    """Where the valid tokens of a padded row stand."""
    return slice(0, valid_tokens) if padding == "right" else slice(length - valid_tokens, length)


def _row(out: StepOutput, call: Call, b: int, where: slice) -> Trace:
    input_ids_BS = call.ids
    assert out.logits_BSV is not None, "logits were asked for, none came"
    shape = (*input_ids_BS.shape, out.logits_BSV.shape[-1])
    assert out.logits_BSV.shape == shape and out.logits_BSV.dtype == np.float32, (
        f"expected float32 logits {shape}, got {out.logits_BSV.shape}"
    )
    routing = _routing_row(out.routing, (input_ids_BS.shape[0], input_ids_BS.shape[1]), b, where)
    ids, weights, router_logits = routing
    return Trace(input_ids_BS[b, where], out.logits_BSV[b, where], ids, weights, router_logits, (call,), b)


def _routing_row(routing: Routing | None, shape: tuple[int, int], b: int, where: slice) -> list[np.ndarray | None]:
    if routing is None:
        return [None, None, None]
    parts = (routing.topk_ids_LTK, routing.topk_weights_LTK, routing.router_logits_LTE)
    return [None if p is None else p.reshape(p.shape[0], *shape, p.shape[-1])[:, b, where] for p in parts]


def join(rows: list[Trace]) -> Trace:
    """One row's trace out of those of consecutive calls."""

    def along(axis: int, parts: list[np.ndarray | None]) -> np.ndarray | None:
        present = [p for p in parts if p is not None]
        return np.concatenate(present, axis=axis) if len(present) == len(parts) else None

    logits = along(0, [r.logits_SV for r in rows])
    assert logits is not None
    tokens = np.concatenate([r.input_ids_S for r in rows])
    routing = (along(1, [getattr(r, name) for r in rows]) for name in ("ids_LSK", "weights_LSK", "router_logits_LSE"))
    ids, weights, router_logits = routing
    return Trace(tokens, logits, ids, weights, router_logits, tuple(call for r in rows for call in r.calls), rows[0].row)
