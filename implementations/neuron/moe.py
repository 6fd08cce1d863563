"""The MoE block: router, dispatch, experts, shared expert, and one sum over all processes at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moe_harness.implementations.common.torch.values import Choice, Pin
from moe_harness.implementations.neuron.collectives import sum_all
from moe_harness.implementations.neuron.dispatch import positions
from moe_harness.implementations.neuron.experts import MLP, Experts
from moe_harness.implementations.neuron.linear import frozen
from moe_harness.implementations.neuron.mesh import Mesh
from moe_harness.implementations.neuron.router import Router
from moe_harness.implementations.neuron.rule import Rule


class SharedExpert(nn.Module):
    """One more SwiGLU, through which every token goes. `gate`: 1 x D, whose sigmoid multiplies the result (Qwen1.5-MoE), or None. Its `mlp`
    does not add up over processes: the block does."""

    def __init__(self, mlp: MLP, gate: Tensor | None):
        super().__init__()
        self.mlp, self.gate = mlp, None if gate is None else frozen(gate)

    def forward(self, x_TD: Tensor) -> Tensor:
        y_TD = self.mlp(x_TD)
        return y_TD if self.gate is None else torch.sigmoid(x_TD @ self.gate.T) * y_TD


class MoE(nn.Module):
    """`shared` None also where another process adds it. `mask_padding`: pads take no places (NxD lets them)."""

    def __init__(self, router: Router, experts: Experts, shared: SharedExpert | None, rule: Rule, mesh: Mesh, mask_padding: bool):
        super().__init__()
        self.router, self.experts, self.shared = router, experts, shared
        self.rule, self.mesh, self.mask_padding = rule, mesh, mask_padding

    def forward(self, x_TD: Tensor, sequence: int, valid_T: Tensor | None = None, pin: Pin | None = None) -> tuple[Tensor, Choice]:
        """T tokens of sequences `sequence` long. The Choice's weights are those that outputs were combined with; dropped ones are 0."""
        choice = self.router(x_TD, pin)
        path, ids_TK = self.rule.path(len(x_TD), sequence), choice.ids_TK
        room, dropped_TK = None, None
        if path == "capacity":
            position_TK = positions(ids_TK, self.rule.num_experts, valid_T if self.mask_padding else None)
            room = (position_TK, self.rule.capacity(len(x_TD)))
            dropped_TK = position_TK > room[1]
        is_final = pin is not None and pin.weights_TK is not None
        weights_TK = choice.weights_TK if dropped_TK is None else choice.weights_TK.masked_fill(dropped_TK, 0)
        weights_TK = weights_TK if is_final else self.router.finish(weights_TK)
        y_TD = self.experts(path, x_TD, ids_TK, weights_TK, room)
        if self.shared is not None:
            y_TD = y_TD + self.shared(x_TD)
        return sum_all(y_TD, self.mesh), Choice(choice.logits_TE, ids_TK, weights_TK, dropped_TK)
