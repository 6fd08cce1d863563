"""What the batched_mm kernel would allocate. Legend: T tokens, K top-k, F expert FFN, D hidden size."""

from __future__ import annotations

from transformers import PreTrainedModel

from moe_harness.implementations.common.torch.memory import check_copy
from moe_harness.implementations.interface import ModelConfig


def check_gather(module: PreTrainedModel, config: ModelConfig, tokens: int) -> None:
    """batched_mm copies the gate_up weights of every selected expert for every token, T*K*2F*D elements at once. Raises Unsupported as
    check_copy does."""
    if module.config._experts_implementation == "batched_mm":
        needed = tokens * config.routing.top_k * 2 * config.moe_intermediate_size * config.hidden_size * module.dtype.itemsize
        check_copy("batched_mm", needed, tokens, module.device)
