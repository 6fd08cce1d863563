"""What routers chose, out of the batches of graphs and in the order of the call. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_harness.implementations.interface import ModelConfig, Routing
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
