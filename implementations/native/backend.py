"""The native backend as the registry sees it. Importing this module does not import torch.

Reading order: loading (checkpoint -> network), network, attention, router, experts, linear; then model (the contract), cache, blocks,
packed, loss, routers.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Tuple

import numpy as np

from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.checkpoint.writer import convert
from moe_harness.implementations.common.torch.gauge import TorchGauge
from moe_harness.implementations.families.weights import Placement, scatter
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
from moe_harness.implementations.native.layout import native_layout

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
        with Checkpoint(src) as source:
            sizes = {name: source.bytes(name) for name in source.names()}
            convert(source, dst, (sizes, source.tensor))

    def to_hf(self, src: str, dst: str) -> None:
        """The inverse of `from_hf`, bit for bit."""
        with Checkpoint(src, native_layout) as source:
            placements = {p.source: p for p in source.family.layout(source.config, source.stored_head)}
            sizes = {name: _share(p, source) for name, p in placements.items()}
            canonical = lru_cache(maxsize=1)(source.tensor)  # the layout goes canonical tensor by canonical tensor

            def read(name: str) -> np.ndarray:
                placement = placements[name]
                return next(array for _, array in scatter([placement], {placement.name: canonical(placement.name)}))

            convert(source, dst, (sizes, read))

    def router(self, spec: RoutingSpec, weights: RouterWeights, load: LoadSpec) -> Router:
        """A router by itself. Raises Unsupported for scores that are not computed here, InvalidInput for weights that do not fit."""
        self._require()
        from moe_harness.implementations.native.routers import build

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


def _share(placement: Placement, source: Checkpoint) -> int:
    """Bytes of one HF tensor: its share of the canonical one that holds it."""
    elements, whole = (math.prod(shape) for shape in (placement.shape, source.shape(placement.name)))
    return source.bytes(placement.name) * elements // whole
