"""The graphs as NxD's ModelBuilder takes them: one module with one signature for all, int32 in and tensors out, and the cache a state that
every graph hands on to the next.

Not yet run on hardware.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from moe_harness.implementations.common.torch.values import Choice
from moe_harness.implementations.neuron.attention import KVCache
from moe_harness.implementations.neuron.decoder import ContextEncoding, Decoder, TokenGeneration
from moe_harness.implementations.neuron.engine import Call, Result, Routed
from moe_harness.implementations.neuron.layers import frozen


@dataclass(frozen=True)
class Graph:
    """`length`: bucket of the cached positions, None: context encoding. `full`: logits of every position and the routing, else only the
    last position's logits."""

    rows: int
    columns: int
    length: Optional[int]
    full: bool

    @property
    def tag(self) -> str:
        kind = "context" if self.length is None else f"behind{self.length}"
        return f"{kind}_{self.rows}x{self.columns}_{'full' if self.full else 'last'}"

    def example(self) -> Dict[str, Tensor]:
        """Inputs, of the right shapes."""
        starts_B = None if self.length is None else np.ones(self.rows, np.int64)
        ids_BS = np.zeros((self.rows, self.columns), np.int64)
        return inputs(Call(ids_BS, np.full(self.rows, self.columns), np.arange(self.rows), "last", starts_B))


def graphs(prompts: int, rows: int, buckets: Sequence[int]) -> List[Graph]:
    """All that a model needs: prompts, `prompts` at a time, in every bucket; further chunks of them behind the largest one; `rows` tokens
    behind every bucket."""
    context = [(prompts, size, None) for size in buckets]
    chunks = [(prompts, size, buckets[-1]) for size in buckets]
    tokens = [(rows, 1, size) for size in buckets]
    return list(dict.fromkeys(Graph(*shape, full) for shape in (*context, *chunks, *tokens) for full in (False, True)))


def graph_of(call: Call, longest: int) -> Graph:
    """The one of `graphs` that a call goes through."""
    rows, columns = call.ids_BS.shape
    length = None if call.starts_B is None else call.length if columns == 1 else longest
    return Graph(rows, columns, length, call.logits == "all" or call.routing)


def inputs(call: Call) -> Dict[str, Tensor]:
    given = {"ids_BS": call.ids_BS, "lengths_B": call.lengths_B, "rows_B": call.rows_B, "starts_B": call.starts_B}
    return {name: torch.from_numpy(each.astype(np.int32)) for name, each in given.items() if each is not None}


class Replaced(KVCache):
    """A cache that is not written to: what changes is a new tensor in the old one's place, since NxD finds its states by that."""

    def __init__(self, cache: KVCache):
        nn.Module.__init__(self)
        for name, buffer in cache.named_buffers():
            self.register_buffer(name, buffer)

    def fill(self, layer: int, rows_B: Tensor, keys_BNSP: Tensor, values_BNSP: Tensor) -> None:
        S = keys_BNSP.shape[2]
        filled = (
            torch.cat((held[:, :, :S].index_copy(0, rows_B, new), held[:, :, S:]), 2)
            for held, new in zip(self._held(layer), (keys_BNSP, values_BNSP))
        )
        self._replace(layer, *filled)

    def write(self, layer: int, rows_B: Tensor, slots_BS: Tensor, keys_BNSP: Tensor, values_BNSP: Tensor) -> None:
        heads = torch.arange(keys_BNSP.shape[1], device=rows_B.device)
        place = (rows_B[:, None, None], heads[None, :, None], slots_BS[:, None])
        self._replace(layer, *(held.index_put(place, new) for held, new in zip(self._held(layer), (keys_BNSP, values_BNSP))))

    def _replace(self, layer: int, keys: Tensor, values: Tensor) -> None:
        setattr(self, f"key{layer}", keys)
        setattr(self, f"value{layer}", values)


class Traced(nn.Module):
    """One process's part. `graph`: which of them the next call is. Weights and tables are parameters, the cache alone is buffers."""

    def __init__(self, decoder: Decoder, cache: KVCache, window: Optional[int], unread: int):
        super().__init__()
        self.decoder, self.cache = _without_buffers(decoder), Replaced(cache)
        self.window, self.unread = window, unread
        self.graph: Optional[Graph] = None

    def weights(self) -> Dict[str, Tensor]:
        return {name: each.detach() for name, each in self.named_parameters()}

    def forward(self, ids_BS: Tensor, lengths_B: Tensor, rows_B: Tensor, starts_B: Optional[Tensor] = None) -> Tuple[Tensor, ...]:
        given = [each.long() for each in (ids_BS, lengths_B, rows_B, starts_B) if each is not None]
        graph = self.graph
        assert graph is not None
        logits_BSV, choices = self._written(graph)(*given)
        return (logits_BSV, *(_routing(choices) if graph.full and choices else ()))

    def _written(self, graph: Graph) -> nn.Module:
        parts = (self.decoder, self.cache, self.window, "all" if graph.full else "last")
        return ContextEncoding(*parts) if graph.length is None else TokenGeneration(*parts, graph.length, self.unread)


def _without_buffers(decoder: Decoder) -> Decoder:
    for module in decoder.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            delattr(module, name)
            module.register_parameter(name, frozen(buffer))
    return decoder


def _routing(choices: Sequence[Choice]) -> List[Tensor]:
    """ids, weights, logits and, where there is a capacity, who is dropped, [L, T, ...]."""
    found = [[choice.ids_TK.int(), choice.weights_TK.float(), choice.logits_TE.float()] for choice in choices]
    dropped = [[choice.dropped_TK.int()] if choice.dropped_TK is not None else [] for choice in choices]
    return [torch.stack(parts) for parts in zip(*(a + b for a, b in zip(found, dropped)))]


def result(call: Call, found: Sequence[Tensor]) -> Result:
    """What a call asked for, of a graph's outputs."""
    logits_BSV, *routed = (each.cpu().numpy() for each in found)
    if call.logits == "last" and logits_BSV.shape[1] > 1:
        last_B11 = np.maximum(call.lengths_B - 1, 0)[:, None, None]
        logits_BSV = np.take_along_axis(logits_BSV, last_B11, 1)
    return Result(None if call.logits == "none" else logits_BSV, _routed(*routed) if call.routing and routed else None)


def _routed(ids_LTK: np.ndarray, weights_LTK: np.ndarray, logits_LTE: np.ndarray, dropped_LTK: Optional[np.ndarray] = None) -> Routed:
    return Routed(ids_LTK.astype(np.int64), weights_LTK, logits_LTE, None if dropped_LTK is None else dropped_LTK.astype(bool))
