"""The contract of `moe_harness.interface` around an engine: strict checks first, graphs of fixed shapes, the lengths changed last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import List, Tuple

import numpy as np

from moe_harness.implementations.common.batch import Batch, check_prompt, check_room, check_tokens, place
from moe_harness.implementations.common.generation import Prompt, generate
from moe_harness.implementations.common.torch.values import check_request, check_states, pinned_arrays
from moe_harness.implementations.interface import (
    GenerationSpec,
    GraphProof,
    InvalidInput,
    ModelCapabilities,
    ModelConfig,
    PinnedRouting,
    Request,
    Routing,
    StepOutput,
    Unsupported,
)
from moe_harness.implementations.neuron.engine import Call, Engine, Pins, Result, routing
from moe_harness.implementations.neuron.sampler import Draws, OnDevice
from moe_harness.implementations.neuron.seats import Occupancy, Seats, bucket, buckets, seats

Group = Tuple[np.ndarray, Tuple[int, int]]  # rows of a call, and the shape of the graph that they go through


@dataclass(frozen=True)
class Shape:
    """Of all graphs: rows and positions of the cache; whether prompts are encoded one by one, and tokens chosen in the graph."""

    max_batch: int
    max_length: int
    one_by_one: bool
    sampling: bool = False

    @property
    def buckets(self) -> tuple[int, ...]:
        return buckets(self.max_length)

    def computed(self, columns: int) -> tuple[int, int]:
        """Of the graph that prompts of so many tokens go through."""
        return 1 if self.one_by_one else self.max_batch, bucket(columns, self.buckets)

    def groups(self, rows: int, width: int) -> list[Group]:
        """Which rows of a prompt go through one graph."""
        if self.one_by_one:
            return [(np.array([row]), (1, width)) for row in range(rows)]
        return [(np.arange(rows), (self.max_batch, width))]


class NeuronModel:
    """`Model`, `Probe`, `Generate`, `Slots`, `Padded` and `StaticProof`. A call that raises InvalidInput has changed nothing."""

    def __init__(self, config: ModelConfig, engine: Engine, shape: Shape):
        self.config, self._engine, self._shape = config, engine, shape
        self._occupancy = Occupancy(shape.max_batch)

    @property
    def alive(self) -> bool:
        """Whether every process of the model is there."""
        return bool(getattr(self._engine, "alive", True))

    def capabilities(self) -> ModelCapabilities:
        return ModelCapabilities.of(self.config)

    def prefill(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, request: Request) -> StepOutput:
        """See the contract. A further chunk goes through token generation, a bucket of tokens at a time."""
        ids_BS, lengths_B = check_prompt(input_ids_BS, lengths_B, request.padding, self._shape.max_batch, self.config.vocab_size)
        batch = self._fitting(place(ids_BS, lengths_B, request.padding, self._occupancy.batch(len(lengths_B))))
        return self._step(batch, np.arange(len(lengths_B)), request, self._prompts(lengths_B))

    def decode(self, token_ids_B: np.ndarray, request: Request) -> StepOutput:
        """See the contract. Always as many rows as the cache has."""
        ids_B = check_tokens(token_ids_B, self.config.vocab_size)
        if len(ids_B) != (rows := self._occupancy.started()):
            raise InvalidInput(f"{len(ids_B)} tokens, but the cache holds {rows} rows")
        return self._next(ids_B, np.arange(rows), self._occupancy.batch(rows), request)

    def prefill_slots(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, slots_B: np.ndarray, request: Request) -> StepOutput:
        """Slots, see the contract."""
        self._needs_slots()
        ids_BS, lengths_B = check_prompt(input_ids_BS, lengths_B, request.padding, self._shape.max_batch, self.config.vocab_size)
        slots_B = self._occupancy.slots(slots_B, len(lengths_B))
        batch = self._fitting(place(ids_BS, lengths_B, request.padding, np.zeros_like(lengths_B)))
        return self._step(batch, slots_B, request, self._prompts(lengths_B), is_batch=False)

    def decode_slots(self, token_ids_B: np.ndarray, slots_B: np.ndarray, request: Request) -> StepOutput:
        """Slots, see the contract."""
        self._needs_slots()
        ids_B = check_tokens(token_ids_B, self.config.vocab_size)
        slots_B = self._occupancy.slots(slots_B, len(ids_B))
        return self._next(ids_B, slots_B, self._occupancy.held(slots_B), request, is_batch=False)

    def computed_batch(self, rows: int, columns: int) -> tuple[int, int]:
        """Padded, see the contract."""
        return self._shape.computed(columns)

    def reset(self) -> None:
        """See the contract."""
        self._engine.clear()
        self._occupancy.clear()

    def close(self) -> None:
        """Drops weights and cache; ends the processes, where there are any."""
        self._engine.close()
        self.__dict__.pop("_engine", None)

    def route(self, layer: int, x_TD: np.ndarray) -> Routing:
        """Probe, see the contract."""
        x_TD, padded_TD = self._states(layer, x_TD)
        found, T = self._engine.route(layer, padded_TD), len(x_TD)
        return Routing(found.ids_LTK[:, :T], found.weights_LTK[:, :T], found.logits_LTE[:, :T], None, np.ones(T, bool))

    def moe_block(self, layer: int, x_TD: np.ndarray, pinned: PinnedRouting | None = None) -> np.ndarray:
        """Probe, see the contract. In a graph of the next size, zeros behind the tokens."""
        x_TD, padded_TD = self._states(layer, x_TD)
        pins = self._pins(pinned, 1, np.ones(len(x_TD), bool))
        return self._engine.block(layer, padded_TD, None if pins is None else pins.padded(len(padded_TD)))[: len(x_TD)]

    def generate(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, spec: GenerationSpec, padding: str = "right") -> List[List[int]]:
        """Generate, see the contract. InvalidInput as in prefill, and for a spec out of range or more tokens than the cache holds."""
        ids_BS, lengths_B = check_prompt(input_ids_BS, lengths_B, padding, self._shape.max_batch, self.config.vocab_size)
        steps = OnDevice(self._first_tokens, self._next_tokens, spec, len(lengths_B)) if self._shape.sampling else None
        return generate(self, self.config, self._shape.max_length, (ids_BS, lengths_B, padding), spec, steps)

    def prove_static(self) -> List[GraphProof]:
        """StaticProof, see the contract. Context encoding in every bucket; decoding, and further chunks of all sizes, behind every one."""
        found = [self._engine.prove(call) for call in self._calls()]
        self.reset()
        return found

    def _calls(self) -> Iterator[Call]:
        """One for every graph."""
        rows, sizes = self._shape.max_batch, self._shape.buckets
        alone = 1 if self._shape.one_by_one else rows
        for size in sizes:
            yield _blank((alone, size))
            yield _blank((rows, 1), size)
            yield from (_blank((alone, size), length) for length in sizes)
            if self._shape.sampling:
                yield _sampling(_blank((alone, size)))
                yield _sampling(_blank((rows, 1), size))

    def _fitting(self, batch: Batch) -> Batch:
        check_room(batch, self._shape.max_length)
        return batch

    def _needs_slots(self) -> None:
        if not self._shape.one_by_one:
            raise Unsupported("slots need continuous batching: here all rows of a batch begin together")

    def _prompts(self, lengths_B: np.ndarray) -> list[Group]:
        return self._shape.groups(len(lengths_B), bucket(int(lengths_B.max()), self._shape.buckets))

    def _next(self, ids_B: np.ndarray, cache_rows_B: np.ndarray, held_B: np.ndarray, request: Request, is_batch: bool = True) -> StepOutput:
        batch = self._fitting(place(ids_B[:, None], np.ones_like(ids_B), "right", held_B))
        return self._step(batch, cache_rows_B, request, self._tokens(len(ids_B)), is_batch)

    def _tokens(self, rows: int) -> list[Group]:
        return [(np.arange(rows), (self._shape.max_batch, 1))]

    def _first_tokens(self, prompt: Prompt, draws: Draws) -> np.ndarray:
        ids_BS, lengths_B, padding = prompt
        batch = self._fitting(place(ids_BS, lengths_B, padding, self._occupancy.batch(len(lengths_B))))
        return self._sampled(batch, self._prompts(lengths_B), draws)

    def _next_tokens(self, ids_B: np.ndarray, draws: Draws) -> np.ndarray:
        batch = self._fitting(place(ids_B[:, None], np.ones_like(ids_B), "right", self._occupancy.batch(len(ids_B))))
        return self._sampled(batch, self._tokens(len(ids_B)), draws)

    def _sampled(self, batch: Batch, groups: Sequence[Group], draws: Draws) -> np.ndarray:
        rows_B = np.arange(len(batch.ids_BS))
        seated, results = self._run(batch, rows_B, Request(logits="sampled"), groups, draws=draws)
        self._occupancy.becomes(rows_B, batch.ends_B, is_batch=True)
        return np.concatenate([result.found[: at.own] for at, result in zip(seated, results) if result.found is not None])

    def _step(self, batch: Batch, cache_rows_B: np.ndarray, request: Request, groups: Sequence[Group], is_batch: bool = True) -> StepOutput:
        check_request(request)
        valid_T = batch.valid_BS.ravel()
        pins = self._pins(request.pinned, len(self.config.moe_layers), valid_T)
        seated, results = self._run(batch, cache_rows_B, request, groups, pins)
        self._occupancy.becomes(cache_rows_B, batch.ends_B, is_batch)
        logits = None if request.logits == "none" else _logits(batch, seated, results, request.logits == "all")
        routed = [result.routed for result in results if result.routed is not None]
        return StepOutput(logits, routing(seated, routed, self.config, valid_T) if request.routing else None)

    def _run(
        self,
        batch: Batch,
        cache_rows_B: np.ndarray,
        request: Request,
        groups: Sequence[Group],
        pins: Pins | None = None,
        draws: Draws | None = None,
    ) -> tuple[list[Seats], list[Result]]:
        seated = [seats(batch, rows, shape, cache_rows_B) for rows, shape in groups]
        calls = [self._call(batch, at, request, pins) for at in seated]
        if draws is not None:
            calls = [replace(call, draw=_seated(draws, rows, at)) for call, (rows, _), at in zip(calls, groups, seated)]
        return seated, [self._engine.run(call) for call in calls]

    def _call(self, batch: Batch, at: Seats, request: Request, pins: Pins | None) -> Call:
        pad = self.config.pad_token_id or 0
        return Call(
            ids_BS=at.seat(batch.ids_BS.ravel(), pad).reshape(at.source_BS.shape),
            lengths_B=at.lengths_B,
            rows_B=at.rows_B,
            logits=request.logits,
            starts_B=at.starts_B if batch.starts_B.any() else None,
            length=bucket(int(at.starts_B.max()), self._shape.buckets),
            pins=None if pins is None else pins.seated(at),
            routing=request.routing,
        )

    def _pins(self, pinned: PinnedRouting | None, L: int, valid_T: np.ndarray) -> Pins | None:
        return None if pinned is None else Pins(*pinned_arrays(pinned, L, valid_T, self.config.routing))

    def _states(self, layer: int, x_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As given, and with zeros behind up to the size of a graph. Raises InvalidInput."""
        if not 0 <= layer < len(self.config.moe_layers):
            raise InvalidInput(f"MoE layer {layer} of {len(self.config.moe_layers)}")
        x_TD = check_states(x_TD, self.config.hidden_size)
        size = 1 << max(len(x_TD) - 1, 0).bit_length()
        return x_TD, np.pad(x_TD, ((0, size - len(x_TD)), (0, 0)))


def _logits(batch: Batch, seated: Sequence[Seats], results: Sequence[Result], every: bool) -> np.ndarray:
    B, S = batch.ids_BS.shape
    found = [result.found for result in results if result.found is not None]
    if not every:
        return np.concatenate([logits[: at.own] for at, logits in zip(seated, found)])
    target = np.zeros((B * S, found[0].shape[-1]), np.float32)
    for at, logits in zip(seated, found):
        at.unseat(logits.reshape(-1, logits.shape[-1]), target)
    return target.reshape(B, S, -1)


def _seated(draws: Draws, rows: np.ndarray, at: Seats) -> Draws:
    """In the order of a graph's rows; the empty ones behind draw as the first does."""
    taken = np.concatenate((rows, rows[:1].repeat(len(at.rows_B) - at.own)))
    return draws[0][taken], draws[1][taken]


def _sampling(call: Call) -> Call:
    rows = len(call.ids_BS)
    return replace(call, logits="sampled", draw=(np.ones((rows, 3), np.float32), np.zeros(rows, np.float32)))


def _blank(shape: tuple[int, int], length: int | None = None) -> Call:
    """Token 0 everywhere, behind one cached position where `length` is given."""
    rows, columns = shape
    starts_B = None if length is None else np.ones(rows, np.int64)
    return Call(np.zeros(shape, np.int64), np.full(rows, columns), np.arange(rows), "last", starts_B, length or 0)
