"""What runs the graphs. A model asks one engine, whether one process or many stand behind it; host arrays in and out, among them what
routers chose, out of the batches of graphs and in the order of the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from moe_harness.implementations.common.torch.values import Choice, Pin, on_device
from moe_harness.implementations.interface import GraphProof, ModelConfig, Routing
from moe_harness.implementations.neuron.attention import KVCache
from moe_harness.implementations.neuron.compiled import Compiled, prove
from moe_harness.implementations.neuron.decoder import ContextEncoding, Decoder, TokenGeneration
from moe_harness.implementations.neuron.moe import MoE, Router, check_gather
from moe_harness.implementations.neuron.sampler import Draw
from moe_harness.implementations.neuron.seats import Seats


@dataclass(frozen=True)
class Pins:
    """Experts, and maybe weights, [L, T, K]."""

    ids_LTK: np.ndarray
    weights_LTK: np.ndarray | None

    def seated(self, at: Seats) -> Pins:
        """In the order of a graph's batch; at pads expert 0."""
        return Pins(_seated(at, self.ids_LTK), None if self.weights_LTK is None else _seated(at, self.weights_LTK))

    def padded(self, tokens: int) -> Pins:
        """So many tokens; those behind go to expert 0 with weight 0."""
        behind = ((0, 0), (0, tokens - self.ids_LTK.shape[1]), (0, 0))
        return Pins(np.pad(self.ids_LTK, behind), None if self.weights_LTK is None else np.pad(self.weights_LTK, behind))


@dataclass(frozen=True)
class Routed:
    """[L, T, ...] in the order of a graph's batch; weights and logits float32. `dropped_LTK`: where there is a capacity."""

    ids_LTK: np.ndarray
    weights_LTK: np.ndarray
    logits_LTE: np.ndarray
    dropped_LTK: np.ndarray | None


def routing(seated: Sequence[Seats], found: Sequence[Routed], config: ModelConfig, valid_T: np.ndarray) -> Routing:
    """Of the whole call; zeros at pads. Without a MoE layer nothing is found, and L is 0."""
    K, E, T = config.routing.top_k, config.routing.num_experts, len(valid_T)
    if not found:
        return Routing(np.zeros((0, T, K), np.int64), np.zeros((0, T, K), np.float32), np.zeros((0, T, E), np.float32), None, valid_T)
    dropped = [each.dropped_LTK for each in found if each.dropped_LTK is not None]
    return Routing(
        topk_ids_LTK=_together(seated, [each.ids_LTK for each in found], T),
        topk_weights_LTK=_together(seated, [each.weights_LTK for each in found], T),
        router_logits_LTE=_together(seated, [each.logits_LTE for each in found], T),
        dropped_LTK=_together(seated, dropped, T) if dropped else None,
        mask_T=valid_T,
    )


def _together(seated: Sequence[Seats], parts: Sequence[np.ndarray], tokens: int) -> np.ndarray:
    L, _, size = parts[0].shape
    target_TL = np.zeros((tokens, L, size), parts[0].dtype)
    for at, part_LT in zip(seated, parts):
        at.unseat(part_LT.swapaxes(0, 1), target_TL)
    return np.ascontiguousarray(target_TL.swapaxes(0, 1))


def _seated(at: Seats, values_LTK: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(at.seat(values_LTK.swapaxes(0, 1), 0).swapaxes(0, 1))


@dataclass(frozen=True)
class Call:
    """Of one graph. `starts_B` None: context encoding. `length`: bucket of the cached positions. `logits`: all | last | none | sampled,
    which asks for `draw`: the arrays of sampler.Draw."""

    ids_BS: np.ndarray
    lengths_B: np.ndarray
    rows_B: np.ndarray
    logits: str
    starts_B: np.ndarray | None = None
    length: int = 0
    pins: Pins | None = None
    routing: bool = False
    draw: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Result:
    """`found`: logits [B, S, V], float32, S 1 where the last is asked for; or sampled ids [B]. `routed` None where it is not asked for."""

    found: np.ndarray | None
    routed: Routed | None


class Engine(Protocol):
    def run(self, call: Call) -> Result: ...

    def route(self, layer: int, x_TD: np.ndarray) -> Routed:
        """A router alone; x_TD float32."""
        ...

    def block(self, layer: int, x_TD: np.ndarray, pins: Pins | None) -> np.ndarray:
        """A MoE block alone: y_TD float32."""
        ...

    def prove(self, call: Call) -> GraphProof:
        """That the graph of a call has one shape."""
        ...

    def clear(self) -> None:
        """Empties the cache."""
        ...

    def close(self) -> None: ...


@dataclass
class Local:
    """One process. `unread`: the position of pads. `compiler`: torch.compile's backend, or `none`."""

    decoder: Decoder
    cache: KVCache
    window: int | None
    unread: int
    compiler: str = "none"
    _graphs: dict[tuple[str, int | None], Callable[..., Any]] = field(default_factory=dict)

    @torch.inference_mode()
    def run(self, call: Call) -> Result:
        for moe in self.decoder.moes[:1]:
            check_gather(moe, call.ids_BS.size, call.ids_BS.shape[1])
        found, choices = self._graph(call)(*self._inputs(call), self._pins(call.pins), self._draw(call))
        routed = _routed(choices) if call.routing and choices else None
        return Result(None if found is None else found.cpu().numpy(), routed)

    @torch.inference_mode()
    def route(self, layer: int, x_TD: np.ndarray) -> Routed:
        router = self._moe(layer).router
        return alone(router, self._states(x_TD))

    @torch.inference_mode()
    def block(self, layer: int, x_TD: np.ndarray, pins: Pins | None) -> np.ndarray:
        check_gather(self._moe(layer), len(x_TD), len(x_TD))
        pinned = self._pins(pins)
        y_TD, _ = self._moe(layer)(self._states(x_TD), len(x_TD), None, pinned[0] if pinned else None)
        found: np.ndarray = y_TD.float().cpu().numpy()
        return found

    def prove(self, call: Call) -> GraphProof:
        kind = "context encoding" if call.starts_B is None else f"token generation behind {call.length}"
        name = f"{kind}, {' x '.join(map(str, call.ids_BS.shape))}, {call.logits}{'' if call.draw else ' logits'}"
        inputs = self._inputs(call) if call.draw is None else (*self._inputs(call), [], self._draw(call))
        return prove(name, self._written(call), inputs)

    def clear(self) -> None:
        self.cache.clear()

    def close(self) -> None:
        """The memory goes with the engine."""

    @property
    def _dtype(self) -> torch.dtype:
        return self.decoder.head.weight.dtype

    def _graph(self, call: Call) -> Callable[..., Any]:
        """One for every shape that is asked for; they share weights and cache."""
        key = (call.logits, None if call.starts_B is None else call.length)
        if key not in self._graphs:
            self._graphs[key] = self._written(call) if self.compiler == "none" else Compiled(self._written(call), self.compiler)
        return self._graphs[key]

    def _written(self, call: Call) -> nn.Module:
        parts = (self.decoder, self.cache, self.window, call.logits)
        return ContextEncoding(*parts) if call.starts_B is None else TokenGeneration(*parts, call.length, self.unread)

    def _inputs(self, call: Call) -> tuple[Tensor, ...]:
        given = (call.ids_BS, call.lengths_B, call.rows_B, call.starts_B)
        return tuple(self._tensor(each) for each in given if each is not None)

    def _draw(self, call: Call) -> Draw | None:
        return None if call.draw is None else Draw(*(self._tensor(each) for each in call.draw))

    def _moe(self, layer: int) -> MoE:
        return self.decoder.moes[layer]

    def _states(self, x_TD: np.ndarray) -> Tensor:
        return self._tensor(x_TD).to(self._dtype)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return on_device(array, self.decoder.head.weight.device)

    def _pins(self, pins: Pins | None) -> list[Pin]:
        if pins is None:
            return []
        weights = [None] * len(pins.ids_LTK) if pins.weights_LTK is None else [self._tensor(w).to(self._dtype) for w in pins.weights_LTK]
        return [Pin(self._tensor(ids), w) for ids, w in zip(pins.ids_LTK, weights)]


def alone(router: Router, x_TD: Tensor) -> Routed:
    """What a router chooses where nobody is dropped."""
    choice = router(x_TD)
    return _routed([Choice(choice.logits_TE, choice.ids_TK, router.finish(choice.weights_TK))])


def _routed(choices: Sequence[Choice]) -> Routed:
    dropped = [choice.dropped_TK for choice in choices if choice.dropped_TK is not None]
    return Routed(
        torch.stack([choice.ids_TK for choice in choices]).cpu().numpy(),
        torch.stack([choice.weights_TK.float() for choice in choices]).cpu().numpy(),
        torch.stack([choice.logits_TE.float() for choice in choices]).cpu().numpy(),
        torch.stack(dropped).cpu().numpy() if dropped else None,
    )
