"""Host arrays to torch tensors and back."""

from __future__ import annotations

import numpy as np
import torch

from moe_harness.implementations.interface import InvalidInput


def hidden_states(x_TD: np.ndarray, hidden_size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A probe's input in the model's dtype. Raises InvalidInput: not float32 (T, D), or not exactly representable."""
    x_TD = np.asarray(x_TD)
    if x_TD.ndim != 2 or x_TD.shape[1] != hidden_size or x_TD.dtype != np.float32:
        raise InvalidInput(f"x_TD has shape {x_TD.shape} and dtype {x_TD.dtype}; float32 (T, {hidden_size}) is expected")
    x = torch.from_numpy(np.ascontiguousarray(x_TD))
    rounded = x.to(dtype)
    if not torch.allclose(rounded.float(), x, rtol=0, atol=0, equal_nan=True):
        raise InvalidInput(f"x_TD is not exactly representable in {str(dtype).removeprefix('torch.')}")
    return rounded.to(device)


def host(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().contiguous().numpy()
