"""The subject: a backend in plain numpy, honest unless its seams are changed. It exists to measure the checks, not to be fast.

An independent third implementation: it shares no code with the oracle or with any backend under `implementations/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from moe_harness.emulator import inputs, storage
from moe_harness.emulator.attention import valid_tokens
from moe_harness.emulator.cache import Cache, Slots, in_use, new_cache
from moe_harness.emulator.capacity import Capacity
from moe_harness.emulator.honest import HONEST
from moe_harness.emulator.network import Network, compare
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.outputs import as_routing, joined
from moe_harness.emulator.routing import SubjectRouter, standalone
from moe_harness.emulator.seams import Seams, changed
from moe_harness.emulator.values import Call, Step
from moe_harness.implementations.interface import (  # fmt: skip
    DTYPES,
    Capabilities,
    GenerationSpec,
    GraphProof,
    InvalidInput,
    LoadSpec,
    ModelCapabilities,
    ModelConfig,
    PinnedRouting,
    Request,
    RouterWeights,
    Routing,
    RoutingSpec,
    StepOutput,
)


@dataclass(frozen=True)
class SubjectBackend:
    """A `Backend` and a `RouterBuilder`. `name` as the registry gives it; `seams`: where it departs from the honest one."""

    name: str = "moe_harness.mutants.catalogue:backend"
    seams: Seams = HONEST

    def capabilities(self) -> Capabilities:
        return Capabilities(
            features=self.seams.calls.features(),
            families=inputs.FAMILIES,
            dtypes=DTYPES,
            logits=self.seams.calls.shown(),
            execution="emulated",
            execution_note="numpy, rounds after each operation",
            reads_hf=True,
        )

    def from_hf(self, src: str, dst: str) -> None:
        storage.from_hf(src, dst, self.seams)

    def to_hf(self, src: str, dst: str) -> None:
        storage.to_hf(src, dst, self.seams)

    def load(self, path: str, spec: LoadSpec) -> SubjectModel:
        inputs.load_spec(spec)
        rounding, capacity = Rounding(spec.dtype), Capacity.parse(spec.options)
        config, tensors = storage.load(path, rounding, self.seams)
        return SubjectModel(Network(config, tensors, rounding, self.seams, capacity), spec)

    def router(self, spec: RoutingSpec, weights: RouterWeights, load: LoadSpec) -> SubjectRouter:
        inputs.load_spec(load)
        return standalone(spec, weights, Rounding(load.dtype), self.seams)


@dataclass
class SubjectModel:
    """A `Model` with `Probe`, `Generate`, `Packed`, `Loss`, `Slots` and `StaticProof`."""

    network: Network
    spec: LoadSpec
    _cache: Cache | None = field(default=None)
    _slots: Slots = field(init=False)

    def __post_init__(self) -> None:
        self._slots = Slots(self.spec.max_batch)

    @property
    def config(self) -> ModelConfig:
        return self.network.config

    @property
    def seams(self) -> Seams:
        return self.network.seams

    def capabilities(self) -> ModelCapabilities:
        return self.seams.calls.describe(self.config)

    def prefill(self, input_ids_BS: Array, lengths_B: Array, request: Request) -> StepOutput:
        return self._in_rows(Call(input_ids_BS, lengths_B, request.padding), request)

    def decode(self, token_ids_B: Array, request: Request) -> StepOutput:
        return self._in_rows(Call(token_ids_B), request)

    def prefill_slots(self, input_ids_BS: Array, lengths_B: Array, slots_B: Array, request: Request) -> StepOutput:
        return self._in_slots(Call(input_ids_BS, lengths_B, request.padding), slots_B, request)

    def decode_slots(self, token_ids_B: Array, slots_B: Array, request: Request) -> StepOutput:
        return self._in_slots(Call(token_ids_B), slots_B, request)

    def reset(self) -> None:
        if self._cache is not None:
            self.seams.cache.reset(self._cache)
        self._slots.caches.clear()

    def prove_static(self) -> list[GraphProof]:
        self.reset()
        compiled = replace(self.network, seams=changed(self.seams, run_experts=self.seams.calls.compiled_experts))
        return [compare(compiled, self._first_step, (rows, columns)) for rows in (1, self.spec.max_batch) for columns in (1, 16)]

    def close(self) -> None:
        self._cache = None
        self.network.tensors.clear()

    @np.errstate(all="ignore")  # NaN and infinity are data: checks feed them in on purpose
    def route(self, layer: int, x_TD: Array) -> Routing:
        inputs.needs("probe", self.seams)
        x_TD = inputs.probe(layer, x_TD, self.config, self.network.rounding)
        return as_routing([self.network.route(layer, x_TD)], np.ones(len(x_TD), bool), self.config.routing)

    @np.errstate(all="ignore")  # NaN and infinity are data: checks feed them in on purpose
    def moe_block(self, layer: int, x_TD: Array, pinned: PinnedRouting | None = None) -> Array:
        inputs.needs("probe", self.seams)
        x_TD = inputs.probe(layer, x_TD, self.config, self.network.rounding)
        self.seams.calls.probed(self._cache)
        valid_T = np.ones(len(x_TD), bool)
        pinned = inputs.pinned(pinned, 1, valid_T, self.config)
        routes = self.network.drop(self.network.route(layer, x_TD, pinned), valid_T, pinned)
        return np.ascontiguousarray(self.network.moe_block(layer, x_TD, routes, valid_T))

    @np.errstate(all="ignore")  # NaN and infinity are data: checks feed them in on purpose
    def prefill_packed(self, input_ids_T: Array, cu_seqlens: Array, request: Request) -> StepOutput:
        inputs.needs("packed", self.seams)
        inputs.request(request, self.seams)
        ids_1T = self.seams.calls.tokens("input_ids_T", input_ids_T, 1, self.config)[None]
        cu, T = self.seams.calls.boundaries(cu_seqlens, ids_1T.shape[1]), ids_1T.shape[1]
        self.seams.calls.room(1, T, 0, 0, self.spec)
        pinned = inputs.pinned(request.pinned, len(self.config.moe_layers), np.ones(T, bool), self.config)
        calls, valid_1T = self.seams.calls, np.ones((1, T), bool)
        step = Step(ids_1T, valid_1T, calls.packed_positions(cu)[None], calls.segments(cu)[None], decoding=False)
        hidden_1TD, records = self.network.forward(step, new_cache(self.config, 1, T), pinned)
        hidden_1TD = hidden_1TD[:, calls.packed_last(cu)] if request.logits == "last" else hidden_1TD
        logits = None if request.logits == "none" else np.ascontiguousarray(self.network.logits(hidden_1TD))
        return StepOutput(logits, as_routing(records, valid_1T[0], self.config.routing) if request.routing else None)

    @np.errstate(all="ignore")  # NaN and infinity are data: checks feed them in on purpose
    def loss(self, input_ids_BS: Array, lengths_B: Array, labels_BS: Array, padding: str = "right") -> float:
        inputs.needs("loss", self.seams)
        inputs.request(Request(padding=padding), self.seams)
        ids_BS, valid_BS = self.seams.calls.admit(Call(input_ids_BS, lengths_B, padding), None, self.config, self.spec, self.seams)
        labels_BS = inputs.labels(labels_BS, ids_BS.shape, self.config)
        targets_BS = self.seams.calls.targets(self.seams.calls.kept_labels(labels_BS, valid_BS))
        B, S = ids_BS.shape
        positions_BS = self.seams.attention.prefill_positions(valid_BS, np.zeros(B, np.int64), 0)
        step = Step(ids_BS, valid_BS, positions_BS, np.zeros_like(ids_BS), decoding=False)
        hidden_BSD, _ = self.network.forward(step, new_cache(self.config, B, S), None)
        return self.seams.calls.mean_loss(self.network.logits(hidden_BSD), targets_BS, valid_BS)

    def generate(self, input_ids_BS: Array, lengths_B: Array, spec: GenerationSpec, padding: str = "right") -> list[list[int]]:
        inputs.needs("generate", self.seams)
        inputs.generation(spec)
        steps = self.seams.sampling.steps(spec, np.shape(input_ids_BS)[-1] if np.ndim(input_ids_BS) else 0, self.spec.max_length)
        self.reset()
        try:
            lengths_B = self.seams.sampling.prompt_lengths(np.asarray(lengths_B), np.shape(input_ids_BS)[-1])
            logits_BV = self.prefill(input_ids_BS, lengths_B, Request(padding=padding)).logits_BSV[:, 0]  # type: ignore[index]
            valid_BS = valid_tokens(np.asarray(lengths_B), input_ids_BS.shape[1], padding)
            history = [row[valid].tolist() for row, valid in zip(input_ids_BS, valid_BS, strict=True)]
            return self._continue(logits_BV, history, spec, steps)
        finally:
            self.reset()

    def _continue(self, logits_BV: Array, history: list[list[int]], spec: GenerationSpec, steps: int) -> list[list[int]]:
        """New ids per row after the `history`, which grows. Rows that have ended run on, and what they give is dropped."""
        sampling, seams = self.seams.sampling, self.seams
        rng, stop = sampling.generator(spec.seed), sampling.stop_ids(self.config, spec)
        new: list[list[int]] = [[] for _ in history]
        ended_B = np.zeros(len(history), bool)
        ids_B = np.zeros(len(history), np.int64)
        for count in range(steps):
            if count:
                logits_BV = self.decode(ids_B, Request()).logits_BSV[:, 0]  # type: ignore[index]
            ids_B = sampling.sample(logits_BV, history, spec, rng, seams)
            for row in np.flatnonzero(~ended_B):
                new[row].append(int(ids_B[row]))
                history[row].append(int(ids_B[row]))
            ended_B = sampling.ended(ids_B, history, stop, ended_B)
            if ended_B.all():
                break
        return new

    def _in_rows(self, call: Call, request: Request) -> StepOutput:
        inputs.request(request, self.seams)
        admitted = self.seams.calls.admit(call, self._cache, self.config, self.spec, self.seams)
        if self._slots.caches:
            raise InvalidInput("requests are in slots; reset first")
        return self._step(admitted, self._open(len(admitted[0])), call.lengths_B is None, request)

    def _in_slots(self, call: Call, slots_B: Array, request: Request) -> StepOutput:
        """Row by row; all of them are checked first."""
        inputs.needs("slots", self.seams)
        inputs.request(request, self.seams)
        if self._cache is not None and self._cache.rows:
            raise InvalidInput("the cache holds a batch; reset first")
        seams, decoding = self.seams, call.lengths_B is None
        ids_BS, valid_BS = seams.calls.admit(call, None, self.config, self.spec, seams) if not decoding else self._tokens(call)
        asked = seams.cache.seat(seams.cache.admit_slots(self._slots, slots_B, len(ids_BS)))
        if decoding:
            in_use(self._slots, asked)
            caches = [self._slots.caches[slot] for slot in asked]
            for cache in caches:
                seams.calls.room(1, 1, 1, cache.used, self.spec)
        else:
            caches = [seams.cache.begin(self._slots, slot, new_cache(self.config, 1, self.spec.max_length)) for slot in asked]
            self._slots.caches.update(zip(asked, caches, strict=True))
        rows = [(ids_BS[b : b + 1], valid_BS[b : b + 1]) for b in range(len(asked))]
        return joined([self._step(row, cache, decoding, request) for row, cache in zip(rows, caches, strict=True)])

    def _tokens(self, call: Call) -> tuple[Array, Array]:
        ids_BS = self.seams.calls.tokens("token_ids_B", call.ids, 1, self.config)[:, None]
        return ids_BS, np.ones(ids_BS.shape, bool)

    def _first_step(self, ids_BS: Array) -> Step:
        valid_BS = np.ones(ids_BS.shape, bool)
        positions_BS = self.seams.attention.prefill_positions(valid_BS, np.zeros(len(ids_BS), np.int64), 0)
        return Step(ids_BS, valid_BS, positions_BS, np.zeros_like(ids_BS), decoding=False)

    @np.errstate(all="ignore")  # NaN and infinity are data: checks feed them in on purpose
    def _step(self, admitted: tuple[Array, Array], cache: Cache, decoding: bool, request: Request) -> StepOutput:
        ids_BS, valid_BS = admitted
        pinned = inputs.pinned(request.pinned, len(self.config.moe_layers), valid_BS.ravel(), self.config)
        if decoding:
            positions_BS = self.seams.attention.decode_positions(cache.next_B, cache.used)
        else:
            positions_BS = self.seams.attention.prefill_positions(valid_BS, cache.next_B, cache.used)
        step = Step(ids_BS, valid_BS, positions_BS, np.zeros_like(ids_BS), decoding)
        hidden_BSD, records = self.network.forward(step, cache, pinned)
        cache.next_B += valid_BS.sum(axis=1)
        routing = as_routing(records, self.seams.calls.mask(valid_BS.ravel()), self.config.routing) if request.routing else None
        if request.logits.startswith("top-"):
            return StepOutput(None, routing, self.seams.calls.top(self.network.logits(hidden_BSD), int(request.logits[4:])))
        return StepOutput(self._logits(hidden_BSD, valid_BS, request.logits), routing)

    def _open(self, B: int) -> Cache:
        """The cache, allocated where there is none for B rows."""
        if self._cache is None or len(self._cache.next_B) != B:
            self._cache = new_cache(self.config, B, self.spec.max_length)
        return self._cache

    def _logits(self, hidden_BSD: Array, valid_BS: Array, which: str) -> Array | None:
        if which == "none":
            return None
        if which == "last":
            hidden_BSD = hidden_BSD[np.arange(len(hidden_BSD)), self.seams.calls.last_token(valid_BS)][:, None]
        return np.ascontiguousarray(self.network.logits(hidden_BSD))
