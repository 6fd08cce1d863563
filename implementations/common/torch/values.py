"""Between the contract's host arrays and torch: hidden states and pinned experts in, routing out; checkpoints' bits. For the backends that
run on torch."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from moe_harness.implementations.interface import InvalidInput, PinnedRouting, Request, Routing, RoutingSpec


class Pin(NamedTuple):
    """Experts, and maybe weights, to use instead of the router's choice, for one MoE layer."""

    ids_TK: Tensor
    weights_TK: Tensor | None


class Choice(NamedTuple):
    """`logits_TE` in the router's dtype, `ids_TK` int64, `weights_TK` as combined; `dropped_TK` bool, where there is a capacity."""

    logits_TE: Tensor
    ids_TK: Tensor
    weights_TK: Tensor
    dropped_TK: Tensor | None = None


def to_torch(array: np.ndarray) -> Tensor:
    """Shares memory. NumPy knows bfloat16 through ml_dtypes only, which torch does not take: the bits pass as uint16."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def states(x_TD: np.ndarray, hidden_size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A probe's input on the device. Raises InvalidInput."""
    return on_device(check_states(x_TD, hidden_size), device).to(dtype)


def check_states(x_TD: np.ndarray, hidden_size: int) -> np.ndarray:
    """float32. Raises InvalidInput."""
    x = np.asarray(x_TD)
    return _checked("x_TD", x, (x.shape[0] if x.ndim else 0, hidden_size), np.floating).astype(np.float32)


def routing_of(choices: Sequence[Choice], mask_T: np.ndarray, spec: RoutingSpec) -> Routing:
    """On the host; L is the number of choices and may be 0."""
    T, K, E = len(mask_T), spec.top_k, spec.num_experts
    dropped = [c.dropped_TK for c in choices if c.dropped_TK is not None]
    return Routing(
        topk_ids_LTK=_stack([c.ids_TK for c in choices], (T, K), torch.int64),
        topk_weights_LTK=_stack([c.weights_TK for c in choices], (T, K), torch.float32),
        router_logits_LTE=_stack([c.logits_TE for c in choices], (T, E), torch.float32),
        dropped_LTK=_stack(dropped, (T, K), torch.bool) if dropped else None,
        mask_T=mask_T,
    )


def pins(pinned: PinnedRouting | None, L: int, valid_T: np.ndarray, spec: RoutingSpec, device: torch.device) -> List[Pin]:
    """One per MoE layer, or none. Raises InvalidInput."""
    if pinned is None:
        return []
    ids_LTK, weights_LTK = pinned_arrays(pinned, L, valid_T, spec)
    if weights_LTK is None:
        return [Pin(on_device(ids_TK, device), None) for ids_TK in ids_LTK]
    return [Pin(on_device(i, device), on_device(w, device)) for i, w in zip(ids_LTK, weights_LTK)]


def pinned_arrays(pinned: PinnedRouting, L: int, valid_T: np.ndarray, spec: RoutingSpec) -> Tuple[np.ndarray, np.ndarray | None]:
    """ids int64 and weights float32. Entries at pads mean nothing and are moved into range. Raises InvalidInput."""
    shape, weights_LTK = (L, len(valid_T), spec.top_k), pinned.topk_weights_LTK
    given_LTK = _checked("topk_ids_LTK", pinned.topk_ids_LTK, shape, np.integer)
    ids_LTK = given_LTK.clip(0, spec.num_experts - 1).astype(np.int64)
    if (ids_LTK != given_LTK)[:, valid_T].any():
        raise InvalidInput(f"pinned experts must be in [0, {spec.num_experts})")
    return ids_LTK, None if weights_LTK is None else _checked("topk_weights_LTK", weights_LTK, shape, np.floating).astype(np.float32)


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def check_request(request: Request) -> None:
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
