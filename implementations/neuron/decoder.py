"""The decoder: embedding, layers of attention and experts (or a dense MLP), norm, head. Static shapes in, static shapes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from moe_harness.implementations.common.torch.values import Choice, Pin
from moe_harness.implementations.neuron.attention import Attention
from moe_harness.implementations.neuron.experts import MLP
from moe_harness.implementations.neuron.linear import ColumnParallelLinear, ParallelEmbedding
from moe_harness.implementations.neuron.moe import MoE
from moe_harness.implementations.neuron.norm import RMSNorm
from moe_harness.implementations.neuron.past import Past
from moe_harness.implementations.neuron.rope import Rope


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
