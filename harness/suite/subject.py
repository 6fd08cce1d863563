"""The backend under judgement in one case and dtype, with its loaded models cached for the session."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from moe_harness.cases.cases import Case
from moe_harness.implementations.interface import (
    Backend,
    Capabilities,
    Generate,
    LoadSpec,
    Model,
    ModelConfig,
    Probe,
    RoutingSpec,
    Unsupported,
)
from moe_harness.implementations.worker import WorkerBackend
from moe_harness.suite.bounds.case import CaseFloors, floors_of

KEPT_MODELS, KEPT_CASES = 6, 16
MAX_LENGTH, MAX_BATCH = 128, 8  # of the models that checks share


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
    _cases: OrderedDict[Path, Case] = field(default_factory=OrderedDict)
    _timed: tuple[str, str, str] | None = None

    def case(self, name: str, key: str, make: Callable[[Path], object]) -> Case:
        """A checkpoint of `once`. The most recent few are the same objects every time, with their open files and what their oracles have
        computed."""
        path = self.once(key, make)
        case = self._cases.setdefault(path, Case(name, path))
        self._cases.move_to_end(path)
        if len(self._cases) > KEPT_CASES:
            self._cases.popitem(last=False)
        return case

    def model(self, backend: Backend, path: Path, spec: LoadSpec) -> Model:
        """A loaded model with an empty cache: a kept one is reset, or loaded again where it cannot be. A backend that does not read HF
        directories gets a converted one."""
        key = (backend.name, path, spec.dtype, spec.device, spec.max_batch, spec.max_length, *sorted(spec.options.items()))
        self._drop_dead()
        if key in self._models and "reset" not in backend.capabilities().features:
            self._close(self._models.pop(key))
        if key in self._models:
            self._models[key].reset()
        else:
            source = path if backend.capabilities().reads_hf else self.converted(backend, path)
            self._models[key] = backend.load(str(source), spec)
            self._evict()
        self._models.move_to_end(key)
        return self._models[key]

    def _drop_dead(self) -> None:
        """Forgets the models of a worker that is gone (they say so by `alive`), so that the next check gets a new one."""
        for key in [key for key, model in self._models.items() if not getattr(model, "alive", True)]:
            self._close(self._models.pop(key))

    def _evict(self) -> None:
        while len(self._models) > KEPT_MODELS:
            self._close(self._models.popitem(last=False)[1])

    def converted(self, backend: Backend, path: Path) -> Path:
        """`from_hf(path)`, once per session."""
        return self.once(f"{backend.name}-{path}", lambda target: backend.from_hf(str(path), str(target)))

    def once(self, key: str, make: Callable[[Path], object]) -> Path:
        """A directory that `make` writes the first time the key is asked for. What a failure leaves behind is removed."""
        target = self.directory / sha256(key.encode()).hexdigest()[:16]
        if not target.exists():
            try:
                make(target)
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
        return target

    def make_room(self, subject: Subject) -> None:
        """Closes the models of the subject that was timed before this one: they would count as its memory."""
        timed = (subject.backend.name, subject.case.name, subject.dtype)
        if self._timed not in (None, timed):
            self.close()
        self._timed = timed

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
    def router_spec(self) -> RoutingSpec | None:
        """What is asked of a router by itself; None where the case is a model."""
        return getattr(self.case, "spec", None)

    def random(self, stream: int) -> np.random.Generator:
        """Numbers of the case's seed; those of seed 0 are what `default_rng(stream)` gives."""
        return np.random.default_rng([stream, self.case.seed])

    @property
    def load_spec(self) -> LoadSpec:
        return LoadSpec(dtype=self.dtype, device=self.workshop.device)

    @property
    def floors(self) -> CaseFloors:
        """What honest implementations are off by on this checkpoint in this dtype."""
        return floors_of(self.case, self.dtype)

    def needs_feature(self, *features: str) -> None:
        """Raises Unsupported unless every feature and the dtype are declared."""
        missing = [f for f in features if f not in self.capabilities.features]
        if missing:
            raise Unsupported(f"{self.backend.name} does not declare: {', '.join(missing)}")
        if self.dtype not in self.capabilities.dtypes:
            raise Unsupported(f"{self.backend.name} does not declare dtype {self.dtype}")

    def needs_logits(self, which: str) -> None:
        """Raises Unsupported unless a Request may ask for these logits."""
        if which not in self.capabilities.logits:
            raise Unsupported(f"{self.backend.name} shows {', '.join(self.capabilities.logits)} of the logits, not {which}")

    def needs(self, *features: str) -> None:
        """Raises Unsupported unless every feature, the dtype and the case's family are declared."""
        self.needs_feature(*features)
        if self.config.family not in self.capabilities.families:
            raise Unsupported(f"{self.backend.name} does not declare family {self.config.family}")

    def needs_this_process(self) -> None:
        """Raises Unsupported for a backend in a worker or on a device: what is done to this process's memory does not reach it."""
        if self.workshop.device != "cpu":
            raise Unsupported(f"the memory of {self.workshop.device} cannot be poisoned from here")
        if isinstance(self.backend, WorkerBackend):
            raise Unsupported(f"{self.backend.name} lives in another process, whose memory cannot be poisoned from here")

    def model(
        self, path: Path | None = None, max_length: int = MAX_LENGTH, max_batch: int = MAX_BATCH, options: Mapping[str, str] | None = None
    ) -> Model:
        """The case's checkpoint (or `path`) loaded in this dtype, cache empty. Shared by the session's checks."""
        spec = LoadSpec(self.dtype, self.workshop.device, max_batch, max_length, options or {})
        return self.workshop.model(self.backend, path or self.case.checkpoint, spec)

    @contextmanager
    def fresh_model(self, convert: bool = False) -> Iterator[Model]:
        """The case's checkpoint loaded for this block alone. `convert`: through the backend's own format even where it reads HF's."""
        source = self.case.checkpoint
        if convert or not self.capabilities.reads_hf:
            source = self.workshop.converted(self.backend, source)
        model = self.backend.load(str(source), LoadSpec(dtype=self.dtype, device=self.workshop.device, max_length=MAX_LENGTH))
        try:
            yield model
        finally:
            model.close()

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
