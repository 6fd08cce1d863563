"""What the dispatch paths would copy: selective the weights of an expert for every choice, blockwise for every block."""

from __future__ import annotations

from moe_harness.implementations.common.torch.memory import check_copy
from moe_harness.implementations.neuron.dispatch import most_blocks
from moe_harness.implementations.neuron.moe import MoE


def check_gather(moe: MoE, tokens: int, sequence: int) -> None:
    """On a CPU, where nobody else does. Raises Unsupported as check_copy does."""
    experts, path = moe.experts, moe.rule.path(tokens, sequence)
    if path in ("all", "capacity") or experts.gate_up.device.type != "cpu":
        return
    choices, held = tokens * moe.rule.top_k, len(experts.gate_up)
    groups = choices if path == "selective" else most_blocks(choices, held, experts.block)
    check_copy(path, groups * (experts.gate_up.nbytes + experts.down.nbytes) // held, tokens, experts.gate_up.device)
