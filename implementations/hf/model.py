"""One loaded transformers model with its DynamicCache, behind the Model, Probe, Generate, Packed and Loss protocols."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from moe_harness.implementations.common.torch.memory import check_copy
from moe_harness.implementations.hf import inputs
from moe_harness.implementations.hf.generation import generate
from moe_harness.implementations.hf.inputs import Chunk, Slots
from moe_harness.implementations.hf.routing import RouterTap, hidden_states, moe_blocks
from moe_harness.implementations.interface import (
    GenerationSpec,
    InvalidInput,
    LoadSpec,
    ModelCapabilities,
    ModelConfig,
    PinnedRouting,
    Request,
    Routing,
    StepOutput,
)

EXPERT_COUNTS = ("num_experts", "num_local_experts")  # transformers' names for E


def check_gather(module: PreTrainedModel, config: ModelConfig, tokens: int) -> None:
    """batched_mm copies the gate_up weights of every selected expert for every token, T*K*2F*D elements at once. Raises Unsupported as
    check_copy does."""
    if module.config._experts_implementation == "batched_mm":
        needed = tokens * config.routing.top_k * 2 * config.moe_intermediate_size * config.hidden_size * module.dtype.itemsize
        check_copy("batched_mm", needed, tokens, module.device)


def window(theirs: Any) -> int | None:
    """The sliding window of a transformers config: some have none, and Qwen2MoeConfig writes 0 for none."""
    return getattr(theirs, "sliding_window", None) or None


def host(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().contiguous().numpy()


class HFModel:
    """See interface.py for the methods. A failure inside transformers empties the cache, so that no half-written one is read."""

    def __init__(self, module: PreTrainedModel, config: ModelConfig, spec: LoadSpec, eos_token_ids: tuple[int, ...]):
        self._module, self._config, self._spec, self._eos = module, config, spec, eos_token_ids
        self.reset()

    def capabilities(self) -> ModelCapabilities:
        """As transformers' own config says, not ours."""
        theirs = self._module.config
        return ModelCapabilities(
            architecture=type(self._module).__name__,
            is_moe=bool(self._config.moe_layers),
            num_experts=next(getattr(theirs, name) for name in EXPERT_COUNTS if hasattr(theirs, name)),
            experts_per_token=theirs.num_experts_per_tok,
            norm_topk_prob=getattr(theirs, "norm_topk_prob", self._config.routing.normalize_topk),  # Mixtral has no such field
            max_position_embeddings=theirs.max_position_embeddings,
            sliding_window=window(theirs),
            head_dim_override=self._config.head_dim * theirs.num_attention_heads != theirs.hidden_size,
            uses_position=True,
            supports_cache_reset=True,
            is_quantized=getattr(theirs, "quantization_config", None) is not None,
        )

    def prefill(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, request: Request) -> StepOutput:
        """Raises Unsupported for pads between the tokens of a row under a sliding window that does not hold every slot."""
        return self._step(inputs.prefill_chunk(input_ids_BS, lengths_B, request.padding, self._config.vocab_size), request)

    def decode(self, token_ids_B: np.ndarray, request: Request) -> StepOutput:
        if not self._slots.valid_BX.size:
            raise InvalidInput("decode before any prefill")
        return self._step(inputs.decode_chunk(token_ids_B, self._config.vocab_size), request)

    def reset(self) -> None:
        self._cache, self._slots = DynamicCache(config=self._module.config), Slots.empty()

    def close(self) -> None:
        del self._module, self._cache
        if self._spec.device != "cpu":
            torch.cuda.empty_cache()

    def route(self, layer: int, x_TD: np.ndarray) -> Routing:
        router = self._block(layer).gate
        tap = RouterTap([router], self._config.routing)
        with torch.inference_mode(), tap:
            router(self._hidden(x_TD))
        return tap.routing(np.ones(len(x_TD), dtype=bool))

    def moe_block(self, layer: int, x_TD: np.ndarray, pinned: PinnedRouting | None = None) -> np.ndarray:
        block, x_1TD = self._block(layer), self._hidden(x_TD)[None]
        check_gather(self._module, self._config, len(x_TD))
        with torch.inference_mode(), ExitStack() as stack:
            if pinned is not None:
                pinned = inputs.check_pinned(pinned, 1, self._config.routing, np.ones(len(x_TD), dtype=bool))
                stack.enter_context(RouterTap([block.gate], self._config.routing, pinned))
            return host(block(x_1TD)[0])

    def generate(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, spec: GenerationSpec, padding: str = "right") -> list[list[int]]:
        """transformers' own `generate`. Raises InvalidInput also when prompt and new tokens cannot fit `max_length`."""
        self.reset()
        chunk = inputs.prefill_chunk(input_ids_BS, lengths_B, padding, self._config.vocab_size)
        inputs.check_generation(spec, chunk, self._spec.max_length, self._config.sliding_window)
        inputs.check_room(self._slots, chunk, self._spec.max_batch, self._spec.max_length)
        eos = self._eos if spec.eos_token_ids is None else spec.eos_token_ids
        return generate(self._module, chunk, spec, eos, self._config.pad_token_id)

    def prefill_packed(self, input_ids_T: np.ndarray, cu_seqlens: np.ndarray, request: Request) -> StepOutput:
        """transformers tells the sequences apart by positions that start again, where neither mask nor cache is given."""
        packed = inputs.packed_row(input_ids_T, cu_seqlens, self._config.vocab_size, self._spec.max_length)
        inputs.check_request(request)
        check_gather(self._module, self._config, packed.chunk.ids_BS.size)
        tap = self._tap(request, packed.chunk)
        keep = {"all": 0, "none": 1}.get(request.logits, self._device(packed.ends - 1))
        with torch.inference_mode(), ExitStack() as stack:
            if tap is not None:
                stack.enter_context(tap)
            ids_1T, positions_1T = self._device(packed.chunk.ids_BS), self._device(packed.positions_1T)
            output = self._module(input_ids=ids_1T, position_ids=positions_1T, use_cache=False, logits_to_keep=keep)
        logits = None if request.logits == "none" else host(output.logits)
        return StepOutput(logits, tap.routing(np.ones(ids_1T.numel(), dtype=bool)) if tap is not None and request.routing else None)

    def loss(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, labels_BS: np.ndarray, padding: str = "right") -> float:
        """By the model's own loss, over its logits in float32."""
        chunk = inputs.prefill_chunk(input_ids_BS, lengths_B, padding, self._config.vocab_size)
        labels_BS = inputs.loss_labels(labels_BS, chunk, self._config.vocab_size)
        slots = Slots.empty().append(chunk)
        inputs.check_room(Slots.empty(), chunk, self._spec.max_batch, self._spec.max_length)
        inputs.check_window(slots, chunk, self._config.sliding_window)
        check_gather(self._module, self._config, chunk.ids_BS.size)
        with torch.inference_mode():
            output = self._module(
                input_ids=self._device(chunk.ids_BS),
                attention_mask=self._mask(slots),
                position_ids=self._device(Slots.empty().positions_BS(chunk)),
                labels=self._device(labels_BS),
                use_cache=False,
                output_router_logits=False,  # a config may ask for them, which adds the balance loss
            )
        return float(output.loss)

    def _step(self, chunk: Chunk, request: Request) -> StepOutput:
        """Checks everything, then runs: a rejected call leaves the cache as it was."""
        inputs.check_request(request)
        inputs.check_room(self._slots, chunk, self._spec.max_batch, self._spec.max_length)
        slots = self._slots.append(chunk)
        inputs.check_window(slots, chunk, self._config.sliding_window)
        check_gather(self._module, self._config, chunk.ids_BS.size)
        tap = self._tap(request, chunk)
        try:
            with torch.inference_mode(), ExitStack() as stack:
                if tap is not None:
                    stack.enter_context(tap)
                logits = self._forward(chunk, slots, request.logits)
        except BaseException:
            self.reset()
            raise
        self._slots = slots
        return StepOutput(logits, tap.routing(chunk.valid_BS.reshape(-1)) if tap is not None and request.routing else None)

    def _forward(self, chunk: Chunk, slots: Slots, logits: str) -> np.ndarray | None:
        last_B = chunk.last_B()
        kept = np.unique(last_B)
        output = self._module(
            input_ids=self._device(chunk.ids_BS),
            attention_mask=self._mask(slots),
            position_ids=self._device(self._slots.positions_BS(chunk)),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep={"all": 0, "none": 1}.get(logits, self._device(kept)),  # 0 is all, n the last n, a tensor these columns
        )
        if logits == "none":
            return None
        if logits == "all":
            return host(output.logits)
        column_B = self._device(np.searchsorted(kept, last_B))
        return host(output.logits.take_along_dim(column_B[:, None, None], dim=1))

    def _mask(self, slots: Slots) -> torch.Tensor | None:
        """None without pads, which lets transformers take its unmasked attention path."""
        return None if slots.valid_BX.all() else self._device(slots.valid_BX.astype(np.int64))

    def _tap(self, request: Request, chunk: Chunk) -> RouterTap | None:
        if not request.routing and request.pinned is None:
            return None
        blocks, routing = moe_blocks(self._module, self._config), self._config.routing
        pinned = request.pinned and inputs.check_pinned(request.pinned, len(blocks), routing, chunk.valid_BS.reshape(-1))
        return RouterTap([block.gate for block in blocks], routing, pinned)

    def _block(self, layer: int) -> nn.Module:
        blocks = moe_blocks(self._module, self._config)
        if not 0 <= layer < len(blocks):
            raise InvalidInput(f"MoE layer {layer}; [0, {len(blocks)}) is expected")
        return blocks[layer]

    def _hidden(self, x_TD: np.ndarray) -> torch.Tensor:
        return hidden_states(x_TD, self._config.hidden_size, self._module.dtype, self._module.device)

    def _device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._module.device)
