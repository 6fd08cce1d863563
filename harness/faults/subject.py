"""The subject: a backend in plain numpy, honest unless its seams are changed. It exists to measure the checks, not to be fast.

An independent third implementation: it shares no code with the oracle or with any backend under `implementations/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.faults import inputs, storage
from harness.faults.attention import valid_tokens
from harness.faults.cache import Cache, new_cache
from harness.faults.network import Network, Step
from harness.faults.numerics import Array, Rounding
from harness.faults.routing import Routes
from harness.faults.seams import HONEST, Seams
from implementations.interface import (
    DTYPES,
    Capabilities,
    GenerationSpec,
    InvalidInput,
    LoadSpec,
    ModelCapabilities,
    ModelConfig,
    PinnedRouting,
    Request,
    Routing,
    StepOutput,
)  # fmt: skip

FEATURES = ("prefill", "decode", "reset", "chunked_prefill", "left_padding", "right_padding", "pinned", "probe", "routing", "generate")


@dataclass(frozen=True)
class SubjectBackend:
    """A `Backend`. `name` as the registry gives it; `seams`: where it departs from the honest one."""

    name: str = "harness.faults.catalogue:backend"
    seams: Seams = HONEST

    def capabilities(self) -> Capabilities:
        return Capabilities(
            features=FEATURES,
            families=("mixtral", "qwen3_moe"),
            dtypes=DTYPES,
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
        rounding = Rounding(spec.dtype)
        config, tensors = storage.load(path, rounding, self.seams)
        return SubjectModel(Network(config, tensors, rounding, self.seams), spec)


@dataclass
class SubjectModel:
    """A `Model` with `Probe` and `Generate`."""

    network: Network
    spec: LoadSpec
    _cache: Cache | None = field(default=None)

    @property
    def config(self) -> ModelConfig:
        return self.network.config

    def capabilities(self) -> ModelCapabilities:
        return ModelCapabilities.of(self.config)

    def prefill(self, input_ids_BS: Array, lengths_B: Array, request: Request) -> StepOutput:
        inputs.request(request)
        ids_BS = inputs.tokens("input_ids_BS", input_ids_BS, 2, self.config)
        lengths_B = inputs.lengths(lengths_B, *ids_BS.shape)
        return self._step(ids_BS, valid_tokens(lengths_B, ids_BS.shape[1], request.padding), request, decoding=False)

    def decode(self, token_ids_B: Array, request: Request) -> StepOutput:
        inputs.request(request)
        ids_B1 = inputs.tokens("token_ids_B", token_ids_B, 1, self.config)[:, None]
        if self._rows() == 0:
            raise InvalidInput("decode before any prefill")
        return self._step(ids_B1, np.ones(ids_B1.shape, bool), request, decoding=True)

    def reset(self) -> None:
        if self._cache is not None:
            self.network.seams.reset(self._cache)

    def close(self) -> None:
        self._cache = None
        self.network.tensors.clear()

    @np.errstate(all="ignore")  # NaN and infinity are data: checks feed them in on purpose
    def route(self, layer: int, x_TD: Array) -> Routing:
        x_TD = inputs.probe(layer, x_TD, self.config, self.network.rounding)
        return self._routing([self.network.route(layer, x_TD)], np.ones(len(x_TD), bool))

    @np.errstate(all="ignore")  # NaN and infinity are data: checks feed them in on purpose
    def moe_block(self, layer: int, x_TD: Array, pinned: PinnedRouting | None = None) -> Array:
        x_TD = inputs.probe(layer, x_TD, self.config, self.network.rounding)
        valid_T = np.ones(len(x_TD), bool)
        routes = self.network.route(layer, x_TD, inputs.pinned(pinned, 1, valid_T, self.config))
        return np.ascontiguousarray(self.network.moe_block(layer, x_TD, routes, valid_T))

    def generate(self, input_ids_BS: Array, lengths_B: Array, spec: GenerationSpec, padding: str = "right") -> list[list[int]]:
        inputs.generation(spec, np.asarray(input_ids_BS).shape[-1], self.spec.max_length)
        self.reset()
        try:
            logits_BV = self.prefill(input_ids_BS, lengths_B, Request(padding=padding)).logits_BSV[:, 0]  # type: ignore[index]
            valid_BS = valid_tokens(np.asarray(lengths_B), input_ids_BS.shape[1], padding)
            return self._continue(logits_BV, [row[valid].tolist() for row, valid in zip(input_ids_BS, valid_BS, strict=True)], spec)
        finally:
            self.reset()

    def _continue(self, logits_BV: Array, history: list[list[int]], spec: GenerationSpec) -> list[list[int]]:
        """New ids per row after the `history`, which grows. Rows that have ended run on, and what they give is dropped."""
        seams, rng, stop = self.network.seams, np.random.default_rng(spec.seed), self.network.seams.stop_ids(self.config, spec)
        new: list[list[int]] = [[] for _ in history]
        ended_B = np.zeros(len(history), bool)
        ids_B = np.zeros(len(history), np.int64)
        for count in range(spec.max_new_tokens):
            if count:
                logits_BV = self.decode(ids_B, Request()).logits_BSV[:, 0]  # type: ignore[index]
            ids_B = seams.sample(logits_BV, history, spec, rng)
            for row in np.flatnonzero(~ended_B):
                new[row].append(int(ids_B[row]))
                history[row].append(int(ids_B[row]))
            ended_B = seams.ended(ids_B, history, stop, ended_B)
            if ended_B.all():
                break
        return new

    @np.errstate(all="ignore")  # NaN and infinity are data: checks feed them in on purpose
    def _step(self, ids_BS: Array, valid_BS: Array, request: Request, decoding: bool) -> StepOutput:
        pinned = inputs.pinned(request.pinned, len(self.config.moe_layers), valid_BS.ravel(), self.config)
        cache = self._open(ids_BS)
        place = self.network.seams.decode_positions(cache.next_B, cache.used) if decoding else None
        positions_BS = self.network.seams.prefill_positions(valid_BS, cache.next_B, cache.used) if place is None else place
        hidden_BSD, records = self.network.forward(Step(ids_BS, valid_BS, positions_BS, decoding), cache, pinned)
        cache.next_B += valid_BS.sum(axis=1)
        routing = self._routing(records, valid_BS.ravel()) if request.routing else None
        return StepOutput(self._logits(hidden_BSD, valid_BS, request.logits), routing)

    def _rows(self) -> int:
        return 0 if self._cache is None else self._cache.rows

    def _open(self, ids_BS: Array) -> Cache:
        """The cache with room for the call, allocated where it is empty. Raises InvalidInput where there is no room."""
        B, S = ids_BS.shape
        inputs.room(B, S, self._rows(), self._cache.used if self._cache else 0, self.spec)
        if self._cache is None or len(self._cache.next_B) != B:
            self._cache = new_cache(self.config, B, self.spec.max_length)
        return self._cache

    def _logits(self, hidden_BSD: Array, valid_BS: Array, which: str) -> Array | None:
        if which == "none":
            return None
        if which == "last":
            hidden_BSD = hidden_BSD[np.arange(len(hidden_BSD)), self.network.seams.last_token(valid_BS)][:, None]
        return np.ascontiguousarray(self.network.logits(hidden_BSD))

    def _routing(self, records: list[Routes], mask_T: Array) -> Routing:
        T, spec = len(mask_T), self.config.routing
        shapes: tuple[tuple[int, ...], ...] = ((0, T, spec.num_experts), (0, T, spec.top_k), (0, T, spec.top_k))
        logits, ids, weights = (
            np.stack([np.asarray(getattr(r, name)) for r in records]) if records else np.zeros(shape, np.float32)
            for name, shape in zip(("logits_TE", "ids_TK", "weights_TK"), shapes, strict=True)
        )
        return Routing(ids.astype(np.int64), weights.astype(np.float32), logits.astype(np.float32), mask_T=mask_T)
