"""HF transformers 5 as the reference backend. Importing this file imports neither torch nor transformers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from moe_harness.implementations import families
from moe_harness.implementations.common.torch.gauge import TorchGauge
from moe_harness.implementations.interface import (
    DTYPES,
    Capabilities,
    LoadSpec,
    Model,
    ModelConfig,
    Router,
    RouterWeights,
    RoutingSpec,
    Unsupported,
)

# transformers' `experts_implementation`: a loop over experts, one batched product, one grouped product (integrations/moe.py).
KERNELS = ("eager", "batched_mm", "grouped_mm")
# Not nan_pads: transformers' attention gives a pad's value the weight 0, and 0 * NaN is NaN (seen with sdpa and eager).
FEATURES = "prefill decode reset chunked_prefill left_padding right_padding pinned probe routing generate packed loss router train".split()
LOSSY = (
    "lm_head.weight: a stored copy of a tied head is not written back; transformers keeps one tensor, the embedding.",
    "correction biases: written in float32, in which transformers keeps them, also where they were stored in the config's dtype.",
    "shards: transformers cuts shards by its own rule, so file names and tensor order may differ.",
)
# (distribution, lowest version that has what is used here, first major version that is untried)
BOUNDS = (("torch", (2, 11), None), ("transformers", (5, 10, 1), 6))


def backend(variant: str | None = None) -> HFBackend:
    """The backend with one of transformers' expert kernels; None is `eager`. Raises ValueError for another variant."""
    if variant not in (None, *KERNELS):
        raise ValueError(f"unknown variant {variant!r} of backend 'hf'; known: {', '.join(KERNELS)}")
    return HFBackend(name="hf" if variant is None else f"hf:{variant}", kernel=variant or "eager")


@dataclass(frozen=True)
class HFBackend(TorchGauge):
    """Backend, Gauge, RouterBuilder and GoldenTrainer of interface.py. `kernel`: transformers' `experts_implementation`."""

    name: str
    kernel: str

    def capabilities(self) -> Capabilities:
        reason = unavailable()
        device = "cpu" if reason else _execution()
        return Capabilities(
            features=tuple(FEATURES),
            families=tuple(sorted(families.families())),
            dtypes=DTYPES,
            variants=KERNELS,
            execution=device,
            reads_hf=True,
            lossy=LOSSY,
            unavailable=reason,
            devices=("cpu", "cuda") if device == "device" else ("cpu",),
        )

    def from_hf(self, src: str, dst: str) -> None:
        """Loads `src` with transformers and saves it again, so that its fusing and unfusing of experts is exercised."""
        self._require()
        from moe_harness.implementations.hf.loading import round_trip

        round_trip(src, dst, self.kernel)

    def to_hf(self, src: str, dst: str) -> None:
        """The same as `from_hf`: this backend's own format is HF's."""
        self.from_hf(src, dst)

    def load(self, path: str, spec: LoadSpec) -> Model:
        """Options: `attention`: eager | sdpa (default). Raises CheckpointError, InvalidInput for a bad spec, Unsupported for a device that
        is not here."""
        self._require()
        from moe_harness.implementations.hf.loading import load

        return load(path, spec, self.kernel)

    def router(self, spec: RoutingSpec, weights: RouterWeights, load: LoadSpec) -> Router:
        """One of transformers' router modules. Raises Unsupported for a spec that none of them can route, InvalidInput for weights that do
        not fit the spec or a bad LoadSpec."""
        self._require()
        from moe_harness.implementations.hf.loading import load_router

        return load_router(spec, weights, load)

    def train(self, config: ModelConfig, text: bytes, heldout: bytes, steps: int, seed: int, dst: str) -> dict[str, float]:
        self._require()
        from moe_harness.implementations.hf.train import train

        return train(config, text, heldout, steps, seed, dst)

    def _require(self) -> None:
        reason = unavailable()
        if reason:
            raise Unsupported(reason)


@lru_cache(maxsize=None)
def unavailable() -> str | None:
    """Why transformers cannot run here, found by importing it and torch; None when it can."""
    try:
        import torch
        import transformers
        from transformers import AutoModelForCausalLM, DynamicCache  # noqa: F401  lazy modules: only this imports the model code
    except Exception as error:  # a broken installation may raise anything, an OSError of a shared library for one
        return f"torch and transformers cannot be imported: {type(error).__name__}: {error}"
    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    return next((reason for name, low, below in BOUNDS if (reason := _out_of_bounds(name, found[name], low, below))), None)


def _out_of_bounds(name: str, version: str, low: tuple[int, ...], below: int | None) -> str | None:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])
    wanted = f">= {'.'.join(map(str, low))}" + (f", < {below}" if below else "")
    if numbers < low or (below is not None and numbers[0] >= below):
        return f"{name} {version} is installed, {wanted} is needed"
    return None


def _execution() -> str:
    import torch

    return "device" if torch.cuda.is_available() else "cpu"
