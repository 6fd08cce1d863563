"""The place that every (token, choice) has on three of the four paths of rule.py. All shapes follow from the number of tokens alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def positions(ids_TK: Tensor, num_experts: int, valid_T: Tensor | None = None) -> Tensor:
    """The number of each choice among those of its expert, from 1, in the order of the tokens; whatever its rank and weight. `valid_T`: the
    tokens that count, None for all; the others come behind every place."""
    chosen_TE = torch.zeros(len(ids_TK), num_experts, dtype=torch.int64, device=ids_TK.device).scatter(1, ids_TK, 1)
    if valid_T is None:
        return chosen_TE.cumsum(0).gather(1, ids_TK)
    number_TK = (chosen_TE * valid_T[:, None]).cumsum(0).gather(1, ids_TK)
    return number_TK.masked_fill(~valid_T[:, None], len(ids_TK) + 1)


@dataclass(frozen=True)
class Places:
    """`index_TK`: the place of each choice, G * M for one that has none here. G groups of M places; group g belongs to expert
    `expert_G`."""

    index_TK: Tensor
    expert_G: Tensor
    size: int


def selective(ids_TK: Tensor, first: int, held: int) -> Places:
    """A group of one place for every choice. An expert that another process holds has no place."""
    local_TK, here_TK = _local(ids_TK, first, held)
    index_TK = torch.arange(ids_TK.numel(), device=ids_TK.device).view_as(ids_TK)
    return Places(index_TK.where(here_TK, index_TK.numel()), local_TK.flatten(), 1)


def capacity(ids_TK: Tensor, position_TK: Tensor, size: int, first: int, held: int) -> Places:
    """A group of `size` places for every expert that is held."""
    local_TK, here_TK = _local(ids_TK, first, held)
    index_TK = local_TK * size + position_TK - 1
    return Places(index_TK.where(here_TK & (position_TK <= size), held * size), torch.arange(held, device=ids_TK.device), size)


def blockwise(ids_TK: Tensor, block: int, first: int, held: int) -> Places:
    """As many blocks as could be needed; an expert's blocks lie one after the other."""
    local_TK, here_TK = _local(ids_TK, first, held)
    one_hot_CE = torch.zeros(ids_TK.numel(), held, dtype=torch.int64, device=ids_TK.device)
    one_hot_CE = one_hot_CE.scatter(1, local_TK.flatten()[:, None], here_TK.flatten()[:, None].long())
    ends_E = ((one_hot_CE.sum(0) + block - 1) // block).cumsum(0)
    begins_E = torch.cat((ends_E.new_zeros(1), ends_E[:-1]))
    rank_TK = (one_hot_CE.cumsum(0) - 1).gather(1, local_TK.flatten()[:, None]).view_as(ids_TK)
    blocks = most_blocks(ids_TK.numel(), held, block)
    block_G1 = torch.arange(blocks, device=ids_TK.device)[:, None]
    expert_G = (ends_E <= block_G1).sum(1).clamp(max=held - 1)  # searchsorted, which XLA does not lower
    return Places((begins_E[local_TK] * block + rank_TK).where(here_TK, blocks * block), expert_G, block)


def most_blocks(choices: int, experts: int, block: int) -> int:
    """Every expert but one has a single choice in a block of its own, and that one all others."""
    return max(1, min(math.ceil((choices - (experts - 1)) / block) + experts - 1, choices))


def _local(ids_TK: Tensor, first: int, held: int) -> tuple[Tensor, Tensor]:
    """Number among the experts that are held, any for the others; and whether it is held."""
    local_TK = ids_TK - first
    return local_TK.clamp(0, held - 1), (local_TK >= 0) & (local_TK < held)
