"""The decoder: embedding, layers of attention and experts (or a dense MLP), norm, head; and the graphs of it that are compiled: context
encoding, from a sequence's beginning, and token generation, behind what is cached. One for every bucket; nothing in them depends on the
values of their inputs. Static shapes in, static shapes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import List, Optional, Tuple

import torch
from torch import Tensor, nn

from moe_harness.implementations.common.torch.values import Choice, Pin
from moe_harness.implementations.neuron.attention import Attention, Beginning, Continuation, KVCache, Past
from moe_harness.implementations.neuron.layers import ColumnParallelLinear, ParallelEmbedding, RMSNorm, Rope
from moe_harness.implementations.neuron.moe import MLP, MoE
from moe_harness.implementations.neuron.sampler import Draw, sample

Result = Tuple[Optional[Tensor], List[Choice]]  # logits [B, S or 1, V] float32 or sampled ids [B], and the routing of T = B * S tokens


class Layer(nn.Module):
    """`ffn`: a MoE, or an MLP in the layers that the config leaves dense."""

    def __init__(self, attention_norm: RMSNorm, attention: Attention, ffn_norm: RMSNorm, ffn: MoE | MLP):
        super().__init__()
        self.attention_norm, self.attention, self.ffn_norm, self.ffn = attention_norm, attention, ffn_norm, ffn


class Decoder(nn.Module):
    def __init__(self, embed: ParallelEmbedding, layers: Sequence[Layer], norm: RMSNorm, head: ColumnParallelLinear, rope: Rope):
        super().__init__()
        self.embed, self.layers, self.norm, self.head, self.rope = embed, nn.ModuleList(layers), norm, head, rope

    @property
    def moes(self) -> list[MoE]:
        """The MoE blocks, in order: entry l is MoE layer l."""
        return [layer.ffn for layer in self.layers if isinstance(layer.ffn, MoE)]

    def forward(
        self, ids_BS: Tensor, positions_BS: Tensor, valid_BS: Tensor, past: Past, pins: Sequence[Pin | None]
    ) -> tuple[Tensor, list[Choice]]:
        """x_BSD before the last norm, and the MoE layers' choices. `pins`: one per MoE layer, or none at all."""
        next_pin: Iterator[Pin | None] = iter(pins)
        choices: list[Choice] = []
        x_BSD, rotation = self.embed(ids_BS), self.rope(positions_BS)
        for i, layer in enumerate(self.layers):
            x_BSD = x_BSD + layer.attention(layer.attention_norm(x_BSD), i, rotation, past)
            normed_BSD = layer.ffn_norm(x_BSD)
            if isinstance(layer.ffn, MoE):
                y_TD, choice = layer.ffn(normed_BSD.flatten(0, 1), ids_BS.shape[1], valid_BS.flatten(), next(next_pin, None))
                choices.append(choice)
                x_BSD = x_BSD + y_TD.view_as(x_BSD)
            else:
                x_BSD = x_BSD + layer.ffn(normed_BSD)
        return x_BSD, choices

    def logits(self, x_BSD: Tensor) -> Tensor:
        """[..., V] float32; multiplied in the model's dtype."""
        return self.head(self.norm(x_BSD)).float()


class ContextEncoding(nn.Module):
    """S is the bucket: prompts are padded to it on the right."""

    def __init__(self, decoder: Decoder, cache: KVCache, window: int | None, logits: str):
        super().__init__()
        self.decoder, self.cache, self.window, self.logits = decoder, cache, window, logits

    def forward(self, ids_BS: Tensor, lengths_B: Tensor, rows_B: Tensor, pins: Sequence[Pin] = (), draw: Draw | None = None) -> Result:
        """`rows_B`: of the cache, one for every sequence."""
        index_S = torch.arange(ids_BS.shape[1], device=ids_BS.device)
        valid_BS = index_S < lengths_B[:, None]
        past = Beginning(self.cache, rows_B, valid_BS, self.window)
        return _run(self, (ids_BS, index_S.expand_as(ids_BS), valid_BS), lengths_B, past, pins, draw)


class TokenGeneration(nn.Module):
    """S new tokens behind the cached ones: one when decoding, a bucket of them for a further chunk of a prompt. `length`: the bucket of the
    cached positions. `unread`: the position of pads, behind all others."""

    def __init__(self, decoder: Decoder, cache: KVCache, window: int | None, logits: str, length: int, unread: int):
        super().__init__()
        self.decoder, self.cache, self.window, self.logits = decoder, cache, window, logits
        self.length, self.unread = length, unread

    def forward(
        self, ids_BS: Tensor, lengths_B: Tensor, rows_B: Tensor, starts_B: Tensor, pins: Sequence[Pin] = (), draw: Draw | None = None
    ) -> Result:
        index_S = torch.arange(ids_BS.shape[1], device=ids_BS.device)
        valid_BS = index_S < lengths_B[:, None]
        positions_BS = torch.where(valid_BS, starts_B[:, None] + index_S, self.unread)
        past = Continuation(self.cache, rows_B, starts_B, positions_BS, valid_BS, self.length, self.window)
        return _run(self, (ids_BS, positions_BS, valid_BS), lengths_B, past, pins, draw)


def _run(
    graph: ContextEncoding | TokenGeneration,
    tokens: tuple[Tensor, Tensor, Tensor],
    lengths_B: Tensor,
    past: Past,
    pins: Sequence[Pin],
    draw: Draw | None,
) -> Result:
    x_BSD, choices = graph.decoder(*tokens, past, pins)
    if graph.logits == "none":
        return None, choices
    if graph.logits != "all":
        last_B1D = (lengths_B - 1).clamp_min(0)[:, None, None].expand(-1, 1, x_BSD.shape[-1])
        x_BSD = x_BSD.gather(1, last_B1D)
    logits_BSV = graph.decoder.logits(x_BSD)
    return logits_BSV if draw is None else sample(logits_BSV[:, 0], draw), choices
