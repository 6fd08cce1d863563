"""The decoder: embedding, layers of attention and experts (or a dense MLP), norm, head. Tensors in, tensors out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moe_harness.implementations.common.batch import Batch
from moe_harness.implementations.common.torch.values import Choice, Pin
from moe_harness.implementations.native.attention import Attention, View
from moe_harness.implementations.native.blocks import blocks
from moe_harness.implementations.native.cache import KVCache, NoCache
from moe_harness.implementations.native.experts import MLP, Experts, SharedExpert, combine
from moe_harness.implementations.native.linear import Linear
from moe_harness.implementations.native.norm import RMSNorm
from moe_harness.implementations.native.packed import Stream
from moe_harness.implementations.native.rope import Rope
from moe_harness.implementations.native.router import Router


@dataclass(frozen=True)
class MoE:
    router: Router
    experts: Experts
    shared: SharedExpert | None = None

    def __call__(self, x_TD: Tensor, pin: Pin | None = None) -> Tuple[Tensor, Choice]:
        choice = self.router(x_TD, pin)
        y_TD = combine(self.experts(x_TD, choice.ids_TK), choice.weights_TK)
        return (y_TD if self.shared is None else y_TD + self.shared(x_TD)), choice


@dataclass(frozen=True)
class Layer:
    """`ffn`: a MoE, or an MLP in the layers that the config leaves dense."""

    attention_norm: RMSNorm
    attention: Attention
    ffn_norm: RMSNorm
    ffn: MoE | MLP


@dataclass(frozen=True)
class Network:
    """The weights of a model, ready to run. `head`: D -> V. `window`: of attention, None for all. `group`: query heads per key head."""

    embed_VD: Tensor
    layers: Tuple[Layer, ...]
    norm: RMSNorm
    head: Linear
    rope: Rope
    window: int | None
    group: int

    @property
    def moes(self) -> List[MoE]:
        """The MoE blocks, in order: entry l is MoE layer l."""
        return [layer.ffn for layer in self.layers if isinstance(layer.ffn, MoE)]

    def hidden(self, batch: Batch, cache: KVCache, pins: Sequence[Pin | None] = ()) -> Tuple[Tensor, List[Choice]]:
        """Runs the layers over the call's tokens and writes the cache. Returns x_BSD before the last norm, and the MoE layers' choices.

        `pins`: one per MoE layer, or none at all.
        """
        x_BSD = F.embedding(self._tensor(batch.ids_BS), self.embed_VD)  # at pads row 0: even a NaN there stays in rows nobody reads
        return self._layers(x_BSD, self._view(batch, cache), pins)

    def hidden_packed(self, stream: Stream, pins: Sequence[Pin | None] = ()) -> Tuple[Tensor, List[Choice]]:
        """The same over a stream of sequences that do not see each other, without a cache; B = 1."""
        rotation = self.rope.at(self._tensor(stream.positions_1T))
        seen = stream.blocks(self.window, self.group, self.embed_VD.device)
        view = View(NoCache(), rotation, None, seen, stream.ids_1T.shape[1])
        return self._layers(F.embedding(self._tensor(stream.ids_1T), self.embed_VD), view, pins)

    def _layers(self, x_BSD: Tensor, view: View, pins: Sequence[Pin | None]) -> Tuple[Tensor, List[Choice]]:
        next_pin: Iterator[Pin | None] = iter(pins)
        choices: List[Choice] = []
        for i, layer in enumerate(self.layers):
            x_BSD = x_BSD + layer.attention(layer.attention_norm(x_BSD), i, view)
            normed_BSD = layer.ffn_norm(x_BSD)
            if isinstance(layer.ffn, MoE):
                y_TD, choice = layer.ffn(normed_BSD.flatten(0, 1), next(next_pin, None))
                choices.append(choice)
                x_BSD = x_BSD + y_TD.view_as(x_BSD)
            else:
                x_BSD = x_BSD + layer.ffn(normed_BSD)
        return x_BSD, choices

    def logits(self, x_BSD: Tensor) -> Tensor:
        """[..., V] float32; multiplied in the model's dtype, as HF does."""
        return self.head(self.norm(x_BSD)).float()

    def _view(self, batch: Batch, cache: KVCache) -> View:
        if batch.is_uniform:
            rotation = self.rope.span(int(batch.starts_B[0]), int(batch.ends_B[0]))
        else:
            rotation = self.rope.at(self._tensor(batch.positions_BS))
        seen = blocks(batch, self.window, self.group, self.embed_VD.device)
        return View(cache, rotation, cache.slots(batch), seen, int(batch.ends_B.max()))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.embed_VD.device)
