"""The native backend as the registry sees it. Importing this module does not import torch.

Reading order: loading (checkpoint -> network), network, moe, linear; then model (the contract), cache, packed.
"""

from __future__ import annotations

from typing import Tuple

from moe_harness.implementations import families
from moe_harness.implementations.common.torch.gauge import TorchGauge
from moe_harness.implementations.interface import (
    DTYPES,
    Backend,
    Capabilities,
    LoadSpec,
    Model,
    Router,
    RouterWeights,
    RoutingSpec,
    Unsupported,
)

# nan_pads: keys and values of pads never enter the cache, and everything but attention works row by row.
FEATURES = (
    "prefill decode reset chunked_prefill left_padding right_padding nan_pads pinned probe routing generate packed loss router".split()
)


def backend(variant: str | None = None) -> Backend:
    """The entry point of the registry. Raises ValueError for any variant: there is one native backend."""
    if variant is not None:
        raise ValueError(f"backend 'native' has no variants, got {variant!r}")
    return NativeBackend()


class NativeBackend(TorchGauge):
    """A factory of native models. See `moe_harness.interface.Backend`."""

    name = "native"

    def capabilities(self) -> Capabilities:
        """Decided by importing torch, here and not before."""
        device, reason = _torch_device()
        return Capabilities(
            features=tuple(FEATURES),
            families=tuple(sorted(families.families())),
            dtypes=DTYPES,
            execution="device" if device == "cuda" else "cpu",
            reads_hf=True,
            unavailable=reason,
            devices=("cpu", "cuda") if device == "cuda" else ("cpu",),
        )

    def from_hf(self, src: str, dst: str) -> None:
        """Per-expert HF tensors -> canonical stacked tensors, under their canonical names; everything else is copied as it is."""
        from moe_harness.implementations.native.convert import from_hf

        from_hf(src, dst)

    def to_hf(self, src: str, dst: str) -> None:
        """The inverse of `from_hf`, bit for bit."""
        from moe_harness.implementations.native.convert import to_hf

        to_hf(src, dst)

    def router(self, spec: RoutingSpec, weights: RouterWeights, load: LoadSpec) -> Router:
        """A router by itself. Raises Unsupported for scores that are not computed here, InvalidInput for weights that do not fit."""
        self._require()
        from moe_harness.implementations.native.loading import build

        return build(spec, weights, load)

    def load(self, path: str, spec: LoadSpec) -> Model:
        """Loads a native or an HF directory. CheckpointError as the contract says; InvalidInput for a bad spec, Unsupported without torch
        or the device."""
        self._require()
        from moe_harness.implementations.native.loading import load

        return load(path, spec)

    def _require(self) -> None:
        _, reason = _torch_device()
        if reason is not None:
            raise Unsupported(reason)


def _torch_device() -> Tuple[str, str | None]:
    """(cuda | cpu, why torch cannot be used or None). Any failing import counts: a broken install raises OSError, not ImportError."""
    try:
        import torch

        return ("cuda" if torch.cuda.is_available() else "cpu"), None
    except Exception as error:  # noqa: BLE001
        return "cpu", f"torch cannot be imported: {type(error).__name__}: {error}"
