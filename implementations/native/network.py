"""The decoder: embedding, layers of attention and experts (or a dense MLP), norm, head. Tensors in, tensors out.

Attention is grouped-query attention (arXiv:2305.13245) over the KV cache, with one fused projection for q, k and v. RMSNorm is rounded as
HF rounds it: computed in float32, cast to the model's dtype, then multiplied by the weight. Rotary position embedding (arXiv:2104.09864) is
in HF's half-split form: dimension i is rotated with dimension i + P/2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moe_harness.implementations.common.batch import Batch
from moe_harness.implementations.common.torch.values import Choice, Pin
from moe_harness.implementations.native.cache import Block, KVCache, Memory, NoCache, Slots, blocks
from moe_harness.implementations.native.linear import Linear
from moe_harness.implementations.native.moe import MLP, MoE
from moe_harness.implementations.native.packed import Stream


@dataclass(frozen=True)
class RMSNorm:
    """Normalises the last dimension. `weight` broadcasts against x: [D], or [heads, P] where heads share a call but not a weight."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        # Without a weight, rms_norm rounds once from float32 to x's dtype: the cast that comes before the multiplication.
        return F.rms_norm(x, x.shape[-1:], None, self.eps) * self.weight


@dataclass(frozen=True)
class ProjectionNorm:
    """Queries as one vector and keys as another, each over all of its heads (OLMoE). `q`: over H P; `k`: over N P."""

    q: RMSNorm
    k: RMSNorm

    def __call__(self, qk_BSHP: Tensor) -> Tensor:
        """[B, S, H + N, P], queries first."""
        P = qk_BSHP.shape[-1]
        q, k = qk_BSHP.flatten(2).split((self.q.weight.shape[0], self.k.weight.shape[0]), -1)
        return torch.cat((self.q(q), self.k(k)), -1).unflatten(-1, (-1, P))


@dataclass(frozen=True)
class Rotation:
    """cos and signed sin of the positions at hand, [B or 1, S, 1, P]. The sign of the first half of `sin` is turned, see `__call__`."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x_BSHP: Tensor) -> Tensor:
        """x cos + rotate_half(x) sin; rotate_half swaps the halves and negates the new first one, a sign that `sin` already carries."""
        return x_BSHP * self.cos + x_BSHP.roll(x_BSHP.shape[-1] // 2, -1) * self.sin


class Rope:
    """Tables for positions 0 .. length-1, computed in float32 and cast to `dtype` as HF does."""

    def __init__(self, length: int, head_dim: int, theta: float, dtype: torch.dtype, device: torch.device):
        frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
        angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
        self._cos = torch.cat((angle.cos(), angle.cos()), -1).to(dtype)
        self._sin = torch.cat((-angle.sin(), angle.sin()), -1).to(dtype)

    def span(self, start: int, end: int) -> Rotation:
        """Positions start .. end-1, the same for every row."""
        return Rotation(self._cos[None, start:end, None], self._sin[None, start:end, None])

    def at(self, positions_BS: Tensor) -> Rotation:
        return Rotation(self._cos[positions_BS, None], self._sin[positions_BS, None])


@dataclass(frozen=True)
class View:
    """What every layer of one call shares: rotations of the positions, where to write, what to look at. `end`: slots in use afterwards."""

    memory: Memory
    rotation: Rotation
    slots: Slots | None
    blocks: List[Block]
    end: int


@dataclass(frozen=True)
class Attention:
    """`qkv`: D -> (H + 2N) P, queries first, then keys, then values. `qk_norm`: over P, with a weight per head [H + N, P] (Qwen3), or over
    whole projections (OLMoE)."""

    qkv: Linear
    out: Linear
    qk_norm: RMSNorm | ProjectionNorm | None
    heads: int
    kv_heads: int

    def __call__(self, x_BSD: Tensor, layer: int, view: View) -> Tensor:
        B, S = x_BSD.shape[:2]
        H, N = self.heads, self.kv_heads
        heads_BSHP = self.qkv(x_BSD).view(B, S, H + 2 * N, -1)
        qk_BSHP, v_BSNP = heads_BSHP[:, :, : H + N], heads_BSHP[:, :, H + N :]
        if self.qk_norm is not None:
            qk_BSHP = self.qk_norm(qk_BSHP)
        qk_BSHP = view.rotation(qk_BSHP)
        q_BSHP = qk_BSHP[:, :, :H]
        keys, values = view.memory.store(layer, qk_BSHP[:, :, H:], v_BSNP, view.slots, view.end)
        parts = [_attend(q_BSHP[:, b.columns], keys[:, :, b.slots], values[:, :, b.slots], b) for b in view.blocks]
        return self.out((parts[0] if len(parts) == 1 else torch.cat(parts, 1)).reshape(B, S, -1))


def _attend(q_BSHP: Tensor, keys_BNMP: Tensor, values_BNMP: Tensor, block: Block) -> Tensor:
    """softmax(q k^T / sqrt(P)) v, [B, S, H, P]; query head h reads key head h // G, G = H / N."""
    B, S, H, P = q_BSHP.shape
    N = keys_BNMP.shape[1]
    G = H // N
    if block.is_causal:
        q_BHSP = q_BSHP.transpose(1, 2)
        return F.scaled_dot_product_attention(q_BHSP, keys_BNMP, values_BNMP, is_causal=True, enable_gqa=G > 1).transpose(1, 2)
    # The G heads that share a key head become rows of one query: no key is repeated, and the kernel gets larger tiles.
    q_BNRP = q_BSHP.view(B, S, N, G, P).permute(0, 2, 3, 1, 4).reshape(B, N, G * S, P)
    mask = None if block.mask_B1SM is None else block.mask_B1SM.repeat(1, 1, G, 1)
    y_BNRP = F.scaled_dot_product_attention(q_BNRP, keys_BNMP, values_BNMP, attn_mask=mask)
    return y_BNRP.view(B, N, G, S, P).permute(0, 3, 1, 2, 4).reshape(B, S, H, P)


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
