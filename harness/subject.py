"""The backend under judgement in one case and dtype, with its loaded models cached for the session."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness.cases import Case
from implementations.interface import Backend, Capabilities, Generate, LoadSpec, Model, ModelConfig, Probe, Unsupported

KEPT_MODELS = 6


class Unavailable(Exception):
    """The backend cannot run here: no hardware, no library, or not on the required device. `str()` is the reason."""


@dataclass
class Workshop:
    """What a session makes once and shares: converted directories, synthetic checkpoints, loaded models (the most recent few)."""

    directory: Path
    device: str = "cpu"
    thorough: bool = False
    gates: dict[int, dict[str, Any]] = field(default_factory=dict)  # by id of a kept model: what its conformance gate said
    _models: OrderedDict[tuple, Model] = field(default_factory=OrderedDict)

    def model(self, backend: Backend, path: Path, spec: LoadSpec) -> Model:
        """A loaded model with an empty cache. A backend that does not read HF directories gets a converted one."""
        key = (backend.name, path, spec.dtype, spec.device, spec.max_batch, spec.max_length)
        if key not in self._models:
            source = path if backend.capabilities().reads_hf else self.converted(backend, path)
            self._models[key] = backend.load(str(source), spec)
            self._evict()
        self._models.move_to_end(key)
        self._models[key].reset()
        return self._models[key]

    def _evict(self) -> None:
        while len(self._models) > KEPT_MODELS:
            self._close(self._models.popitem(last=False)[1])

    def converted(self, backend: Backend, path: Path) -> Path:
        """`from_hf(path)`, once per session."""
        return self.once(f"{backend.name}-{path}", lambda target: backend.from_hf(str(path), str(target)))

    def once(self, key: str, make: Callable[[Path], object]) -> Path:
        """A directory that `make` writes the first time the key is asked for."""
        target = self.directory / sha256(key.encode()).hexdigest()[:16]
        if not target.exists():
            make(target)
        return target

    def close(self) -> None:
        while self._models:
            self._close(self._models.popitem()[1])

    def _close(self, model: Model) -> None:
        self.gates.pop(id(model), None)
        model.close()


@dataclass(frozen=True)
class Subject:
    """One backend, one case, one dtype: what a check is given."""

    backend: Backend
    case: Case
    dtype: str
    workshop: Workshop

    @property
    def capabilities(self) -> Capabilities:
        return self.backend.capabilities()

    @property
    def config(self) -> ModelConfig:
        return self.case.config

    @property
    def depth(self) -> tuple[int, bool]:
        """What the bounds of whole-model errors depend on: layers, and whether the case is one they were measured on."""
        return self.config.num_hidden_layers, self.case.golden is not None

    def needs(self, *features: str) -> None:
        """Raises Unsupported unless every feature, the family and the dtype are declared."""
        missing = [f for f in features if f not in self.capabilities.features]
        if missing:
            raise Unsupported(f"{self.backend.name} does not declare: {', '.join(missing)}")
        if self.config.family not in self.capabilities.families:
            raise Unsupported(f"{self.backend.name} does not declare family {self.config.family}")
        if self.dtype not in self.capabilities.dtypes:
            raise Unsupported(f"{self.backend.name} does not declare dtype {self.dtype}")

    def model(self, path: Path | None = None, max_length: int = 128, max_batch: int = 8) -> Model:
        """The case's checkpoint (or `path`) loaded in this dtype, cache empty."""
        spec = LoadSpec(dtype=self.dtype, device=self.workshop.device, max_length=max_length, max_batch=max_batch)
        return self.workshop.model(self.backend, path or self.case.checkpoint, spec)

    def probe(self, path: Path | None = None) -> Probe:
        self.needs("probe")
        model = self.model(path)
        assert isinstance(model, Probe), f"{self.backend.name} declares `probe` but its model has no route and moe_block"
        return model

    def generator(self) -> Generate:
        self.needs("generate")
        model = self.model()
        assert isinstance(model, Generate), f"{self.backend.name} declares `generate` but its model has no generate"
        return model
