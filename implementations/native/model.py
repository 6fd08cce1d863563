"""The contract of `moe_harness.interface` around a network: host arrays in and out, strict checks first, the cache changed last."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np
import torch
from torch import Tensor

from moe_harness.implementations.common.batch import Batch, check_prompt, check_room, check_tokens, place
from moe_harness.implementations.common.generation import generate
from moe_harness.implementations.common.torch.values import Choice, Pin, check_request, pins, routing_of, states
from moe_harness.implementations.interface import (
    GenerationSpec,
    InvalidInput,
    ModelCapabilities,
    ModelConfig,
    PinnedRouting,
    Request,
    Routing,
    StepOutput,
)
from moe_harness.implementations.native.cache import KVCache
from moe_harness.implementations.native.moe import MoE
from moe_harness.implementations.native.network import Network
from moe_harness.implementations.native.packed import IGNORED, check_labels, check_stream, cross_entropy, valid_stream


class NativeModel:
    """`Model`, `Probe`, `Generate`, `Packed` and `Loss`. A call that raises InvalidInput has changed nothing."""

    def __init__(self, config: ModelConfig, network: Network, cache: KVCache):
        self.config, self._network, self._cache = config, network, cache

    def capabilities(self) -> ModelCapabilities:
        return ModelCapabilities.of(self.config)

    def prefill(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, request: Request) -> StepOutput:
        """See the contract. May be called again to append a further chunk to every row, ragged or not."""
        ids_BS, lengths_B = self._prompt(input_ids_BS, lengths_B, request.padding)
        held_B = self._cache.lengths_B if self._cache.lengths_B.size else np.zeros_like(lengths_B)
        if held_B.shape != lengths_B.shape:
            raise InvalidInput(f"{len(lengths_B)} rows, but the cache holds {len(held_B)}")
        return self._step(place(ids_BS, lengths_B, request.padding, held_B), request)

    def decode(self, token_ids_B: np.ndarray, request: Request) -> StepOutput:
        """See the contract."""
        ids_B = check_tokens(token_ids_B, self.config.vocab_size)
        held_B = self._cache.lengths_B
        if not held_B.size:
            raise InvalidInput("decode before any prefill")
        if ids_B.shape != held_B.shape:
            raise InvalidInput(f"{len(ids_B)} tokens, but the cache holds {len(held_B)} rows")
        return self._step(place(ids_B[:, None], np.ones_like(held_B), "right", held_B), request)

    def reset(self) -> None:
        """See the contract."""
        self._cache.reset()

    def close(self) -> None:
        """Drops weights and cache; what memory that frees is up to torch's allocator."""
        for name in ("_network", "_cache"):
            self.__dict__.pop(name, None)

    @torch.inference_mode()
    def route(self, layer: int, x_TD: np.ndarray) -> Routing:
        """Probe, see the contract."""
        moe, x = self._moe(layer), self._states(x_TD)
        return self._routing([moe.router(x)], np.ones(len(x), bool))

    @torch.inference_mode()
    def moe_block(self, layer: int, x_TD: np.ndarray, pinned: PinnedRouting | None = None) -> np.ndarray:
        """Probe, see the contract."""
        moe, x = self._moe(layer), self._states(x_TD)
        pins = self._pins(pinned, 1, np.ones(len(x), bool))
        y_TD, _ = moe(x, pins[0] if pins else None)
        return y_TD.float().cpu().numpy()

    def generate(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, spec: GenerationSpec, padding: str = "right") -> List[List[int]]:
        """Generate, see the contract. InvalidInput as in prefill, and for a spec out of range or more tokens than the cache holds."""
        ids_BS, lengths_B = self._prompt(input_ids_BS, lengths_B, padding)
        return generate(self, self.config, self._cache.max_length, (ids_BS, lengths_B, padding), spec)

    @torch.inference_mode()
    def prefill_packed(self, input_ids_T: np.ndarray, cu_seqlens: np.ndarray, request: Request) -> StepOutput:
        """Packed, see the contract."""
        stream = check_stream(input_ids_T, cu_seqlens, self.config.vocab_size, self._cache.max_length)
        check_request(request)
        valid_T = np.ones(stream.ids_1T.size, bool)
        x_1TD, choices = self._network.hidden_packed(stream, self._pins(request.pinned, len(self.config.moe_layers), valid_T))
        if request.logits == "last":
            x_1TD = x_1TD[:, self._to_device(stream.bounds[1:] - 1)]
        logits = None if request.logits == "none" else self._network.logits(x_1TD).cpu().numpy()
        return StepOutput(logits, self._routing(choices, valid_T) if request.routing else None)

    @torch.inference_mode()
    def loss(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, labels_BS: np.ndarray, padding: str = "right") -> float:
        """Loss, see the contract. The valid tokens run as a packed stream: no pads, no cache, and logits only where a label asks."""
        ids_BS, lengths_B = self._prompt(input_ids_BS, lengths_B, padding)
        batch = place(ids_BS, lengths_B, padding, np.zeros_like(lengths_B))
        check_room(batch, self._cache.max_length)
        labels_T = check_labels(labels_BS, batch.valid_BS, self.config.vocab_size)[batch.valid_BS]
        x_1TD, _ = self._network.hidden_packed(valid_stream(ids_BS, batch.valid_BS))
        asked = np.flatnonzero(labels_T != IGNORED)
        return cross_entropy(self._network.logits(x_1TD[0, self._to_device(asked - 1)]), labels_T[asked])

    def _prompt(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, padding: str) -> tuple[np.ndarray, np.ndarray]:
        return check_prompt(input_ids_BS, lengths_B, padding, self._cache.max_batch, self.config.vocab_size)

    def _step(self, batch: Batch, request: Request) -> StepOutput:
        check_room(batch, self._cache.max_length)
        check_request(request)
        pins = self._pins(request.pinned, len(self.config.moe_layers), batch.valid_BS.ravel())
        with torch.inference_mode():
            x_BSD, choices = self._network.hidden(batch, self._cache, pins)
            logits = None if request.logits == "none" else self._logits(x_BSD, batch, request.logits)
            routing = self._routing(choices, batch.valid_BS.ravel()) if request.routing else None
        self._cache.commit(batch)
        return StepOutput(logits, routing)

    def _logits(self, x_BSD: Tensor, batch: Batch, which: str) -> np.ndarray:
        if which == "last" and x_BSD.shape[1] > 1:
            rows, columns = np.arange(len(batch.last_B)), batch.last_B
            x_BSD = x_BSD[torch.from_numpy(rows), torch.from_numpy(columns)][:, None]
        return self._network.logits(x_BSD).cpu().numpy()

    def _pins(self, pinned: PinnedRouting | None, L: int, valid_T: np.ndarray) -> Sequence[Pin]:
        return pins(pinned, L, valid_T, self.config.routing, self._network.embed_VD.device)

    def _moe(self, layer: int) -> MoE:
        moes = self._network.moes
        if not 0 <= layer < len(moes):
            raise InvalidInput(f"MoE layer {layer} of {len(moes)}")
        return moes[layer]

    def _states(self, x_TD: np.ndarray) -> Tensor:
        return states(x_TD, self.config.hidden_size, self._network.embed_VD.dtype, self._network.embed_VD.device)

    def _routing(self, choices: Sequence[Choice], mask_T: np.ndarray) -> Routing:
        return routing_of(choices, mask_T, self.config.routing)

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._network.embed_VD.device)
