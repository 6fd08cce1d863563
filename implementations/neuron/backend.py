"""The Neuron backend as the registry sees it. Importing this module does not import torch.

Reading order: loading (checkpoint -> modules; layout says which part of what), decoder (and its graphs), layers, attention, moe; engine
(what runs the graphs), model (the contract), seats (fixed shapes), mesh (processes), builder (NxD's compiler).
"""

from __future__ import annotations

from moe_harness.implementations.interface import (
    DTYPES,
    Backend,
    Capabilities,
    Compilation,
    LoadSpec,
    Model,
    Router,
    RouterWeights,
    RoutingSpec,
    Unsupported,
)
from moe_harness.implementations.neuron.settings import MODES, PATHS, Variant

FEATURES = (
    "prefill decode reset chunked_prefill left_padding right_padding nan_pads pinned probe routing generate router slots capacity static"
).split()
FAMILIES = ("dots1", "mixtral", "qwen2_moe", "qwen3_moe")
# What Neuron's own libraries have and this backend leaves out, and why.
LEFT_OUT = (
    "Fused kernels (NKI attention, blockwise expert kernels): they exist for the device alone; here the same sums are separate operators.",
    "Caching of experts' weights: a memory policy of the device, without a say in what is computed.",
    "Speculation (draft models, EAGLE, Medusa): with greedy choice it gives the same tokens, and no draft models are here to try it with.",
    "Dynamic capacity: its shapes depend on data, which no graph of one shape can have.",
    "Quantised weights and cache: the bounds of the suite are for float32, bfloat16 and float16.",
    "Pipeline parallelism: whole layers to a process say nothing about how experts are split.",
    "OLMoE: its query and key norms run over all heads, which are spread over the processes.",
    "Packed sequences and the loss: Neuron's inference graphs have neither.",
)


def backend(variant: str | None = None) -> Backend:
    """The entry point of the registry. The words of a variant (`Variant`), joined by commas; ValueError for any other."""
    return NeuronBackend(Variant.parse(variant), "neuron" if variant is None else f"neuron:{variant}")


class NeuronBackend:
    """A factory of Neuron models. See `moe_harness.interface.Backend`."""

    def __init__(self, variant: Variant, name: str):
        self.variant, self.name = variant, name

    def capabilities(self) -> Capabilities:
        """Decided by importing torch, here and not before. Without a device a CPU emulates one."""
        reason = _reason() or (_without_nxd(self.variant) if self.variant.nxd else None)
        absent = "" if self.variant.nxd else reason or _absent()
        return Capabilities(
            features=tuple(name for name in FEATURES if name not in self.variant.lacks),
            families=FAMILIES,
            dtypes=DTYPES,
            variants=("tpN", "epN", *(path for path in PATHS if path != "capacity"), *MODES),
            execution="emulated" if absent else "device",
            execution_note=absent or "this path was written without a device: not yet run on hardware",
            reads_hf=True,
            unavailable=reason,
            devices=() if absent or self.variant.nxd else ("cpu", "neuron"),
            left_out=LEFT_OUT,
        )

    def from_hf(self, src: str, dst: str) -> None:
        """A file of weights for each of the variant's processes, and neuron_config.json. Raises CheckpointError, and Unsupported for sizes
        that do not divide."""
        from moe_harness.implementations.neuron.convert import from_hf
        from moe_harness.implementations.neuron.device import world

        from_hf(src, dst, self.variant.tp or world(0), self.variant.ep, not self.variant.unfused)

    def to_hf(self, src: str, dst: str) -> None:
        """The inverse of `from_hf`, bit for bit."""
        from moe_harness.implementations.neuron.convert import to_hf

        to_hf(src, dst)

    def router(self, spec: RoutingSpec, weights: RouterWeights, load: LoadSpec) -> Router:
        """As every process of a model has it."""
        if self.variant.nxd:
            raise Unsupported("NxD compiles whole models, no router alone")
        from moe_harness.implementations.neuron.start import StandaloneRouter

        return StandaloneRouter(spec, weights, load)

    def compilation(self) -> Compilation:
        """Compiler, see the contract. The processes of a mesh work side by side: the slowest one's seconds count."""
        if _reason() is not None:
            return Compilation()
        from moe_harness.implementations.neuron import crew, device
        from moe_harness.implementations.neuron.compiled import COSTS, one_after_the_other

        return one_after_the_other(COSTS.take(), device.compilation(), *crew.compilation())

    def load(self, path: str, spec: LoadSpec) -> Model:
        """Loads an HF directory. CheckpointError as the contract says; InvalidInput for a bad spec, Unsupported without torch or the
        device."""
        reason = _reason()
        if reason is not None:
            raise Unsupported(reason)
        from moe_harness.implementations.neuron.start import start

        return start(path, self.variant, spec)


def _reason() -> str | None:
    """Why torch cannot be used, or None. Any failing import counts: a broken install raises OSError, not ImportError."""
    try:
        import torch  # noqa: F401

        return None
    except Exception as error:  # noqa: BLE001
        return f"torch cannot be imported: {type(error).__name__}: {error}"


def _without_nxd(variant: Variant) -> str | None:
    from moe_harness.implementations.neuron.device import absent

    return absent(variant.tp) or None


def _absent() -> str:
    from moe_harness.implementations.neuron.device import missing

    return missing()
