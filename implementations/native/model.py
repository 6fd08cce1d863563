"""The contract of `implementations.interface` around a network: host arrays in and out, strict checks first, the cache changed last."""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from implementations.interface import (
    GenerationSpec,
    InvalidInput,
    ModelCapabilities,
    ModelConfig,
    PinnedRouting,
    Request,
    Routing,
    RoutingSpec,
    StepOutput,
)
from implementations.native.batch import Batch, check_prompt, check_room, check_tokens, place
from implementations.native.cache import KVCache
from implementations.native.generation import generate
from implementations.native.loss import IGNORED, check_labels, cross_entropy
from implementations.native.network import MoE, Network
from implementations.native.packed import check_stream, valid_stream
from implementations.native.router import Choice, Pin


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
        _check_request(request)
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
        _check_request(request)
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
        """One per MoE layer, or none. Entries at pads mean nothing and are moved into range."""
        if pinned is None:
            return ()
        shape = (L, len(valid_T), self.config.routing.top_k)
        weights_LTK = pinned.topk_weights_LTK
        given_LTK = _checked("topk_ids_LTK", pinned.topk_ids_LTK, shape, np.integer)
        ids_LTK = given_LTK.clip(0, self.config.routing.num_experts - 1).astype(np.int64)
        if (ids_LTK != given_LTK)[:, valid_T].any():
            raise InvalidInput(f"pinned experts must be in [0, {self.config.routing.num_experts})")
        if weights_LTK is None:
            return [Pin(self._to_device(ids_TK), None) for ids_TK in ids_LTK]
        weights_LTK = _checked("topk_weights_LTK", weights_LTK, shape, np.floating).astype(np.float32)
        return [Pin(self._to_device(i), self._to_device(w)) for i, w in zip(ids_LTK, weights_LTK, strict=True)]

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


def states(x_TD: np.ndarray, hidden_size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A probe's input on the device. Raises InvalidInput."""
    x = np.asarray(x_TD)
    _checked("x_TD", x, (x.shape[0] if x.ndim else 0, hidden_size), np.floating)
    return torch.from_numpy(np.ascontiguousarray(x.astype(np.float32))).to(device).to(dtype)


def routing_of(choices: Sequence[Choice], mask_T: np.ndarray, spec: RoutingSpec) -> Routing:
    """On the host; L is the number of choices and may be 0."""
    T, K, E = len(mask_T), spec.top_k, spec.num_experts
    return Routing(
        topk_ids_LTK=_stack([c.ids_TK for c in choices], (T, K), torch.int64),
        topk_weights_LTK=_stack([c.weights_TK for c in choices], (T, K), torch.float32),
        router_logits_LTE=_stack([c.logits_TE for c in choices], (T, E), torch.float32),
        mask_T=mask_T,
    )


def _check_request(request: Request) -> None:
    if request.logits not in ("all", "last", "none"):
        raise InvalidInput(f"logits must be all, last or none, got {request.logits!r}")


def _checked(name: str, array: Any, shape: tuple[int, ...], kind: type) -> np.ndarray:
    array = np.asarray(array)
    if array.shape != shape or not np.issubdtype(array.dtype, kind):
        raise InvalidInput(f"{name} must be {kind.__name__} of shape {shape}, got {array.dtype} of shape {array.shape}")
    return array


def _stack(layers: List[Tensor], shape: Tuple[int, int], dtype: torch.dtype) -> np.ndarray:
    """[L, *shape] on the host; L may be 0."""
    return np.stack([layer.to("cpu", dtype).numpy() for layer in layers]) if layers else torch.empty(0, *shape, dtype=dtype).numpy()
