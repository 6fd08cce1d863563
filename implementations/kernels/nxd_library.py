"""neuronx-distributed's MoE package, imported on a CPU where its source is on PYTHONPATH. Nothing of it is part of this project.

Stand-ins take the place of the vendor's libraries that are not here, so that plain torch code that imports them at its top can be imported.
They compute nothing, and while they are sealed, calling one raises: a result then owes nothing to them.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, Dict, Iterator, Mapping, Tuple

import torch.distributed as dist

from moe_harness.implementations.interface import Unsupported

PACKAGE = "neuronx_distributed"
MODULES = ("expert_mlps_v2", "moe_configs", "routing")
WHERE = "put the src folder of github.com/aws-neuron/neuronx-distributed on PYTHONPATH"
VENDOR = ("torch_xla", "torch_neuronx", "libneuronxla", "neuronxcc", "nki", "nkilib")
ANSWERS = {"torch_neuronx.utils.get_platform_target": "trn2"}  # asked while process groups are made


class StandIns(MetaPathFinder, Loader):
    """Within `with`, `import` finds one for every module below `roots` that nothing else finds; after it they are unknown again, except to
    the modules that imported them. `answers`: what calls return, by the function's full name."""

    def __init__(self, roots: Tuple[str, ...], answers: Mapping[str, object]):
        self.sealed, self.answers = False, answers
        self._roots = roots
        self._made: Dict[str, ModuleType] = {}

    @property
    def names(self) -> Tuple[str, ...]:
        """The roots that were asked for and not found."""
        return tuple(sorted({name.split(".")[0] for name in self._made}))

    @contextmanager
    def seal(self) -> Iterator[None]:
        """Within it, none may be called."""
        self.sealed = True
        try:
            yield
        finally:
            self.sealed = False

    def __enter__(self) -> StandIns:
        sys.meta_path.append(self)  # last: what is really there is taken
        return self

    def __exit__(self, *exc: object) -> None:
        sys.meta_path.remove(self)
        for name in self._made:
            sys.modules.pop(name, None)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] in self._roots else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._made.setdefault(spec.name, _Module(spec.name, self))

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


class _Module(ModuleType):
    """Whatever name is looked up in it is a StandIn, the same one every time."""

    def __init__(self, name: str, owner: StandIns):
        super().__init__(name)
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        return _part(self, f"{self.__name__}.{name}", self._owner)


class StandIn:
    """A function, class or constant that is not here: one may decorate with it, derive from it, or name it in an annotation."""

    def __init__(self, name: str, owner: StandIns):
        self._name, self._owner = name, owner

    def __getattr__(self, name: str) -> Any:
        return _part(self, f"{self._name}.{name}", self._owner)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        if self._owner.sealed:
            raise RuntimeError(f"{self._name} is not here and cannot be computed with")
        return self._owner.answers.get(self._name, StandIn(f"{self._name}()", self._owner))

    def __getitem__(self, key: object) -> Any:
        return StandIn(f"{self._name}[{key!r}]", self._owner)

    def __mro_entries__(self, bases: Tuple[object, ...]) -> Tuple[type, ...]:
        return ()

    def __repr__(self) -> str:
        return f"<no {self._name} here>"


def _part(whole: Any, path: str, owner: StandIns) -> StandIn:
    """The stand-in for a name in another one, the same from now on. Raises AttributeError for Python's own names."""
    name = path.rpartition(".")[2]
    if name.startswith("__"):
        raise AttributeError(name)
    value = StandIn(path, owner)
    setattr(whole, name, value)
    return value


@dataclass(frozen=True)
class Library:
    """Its modules that an adapter needs."""

    experts: Any
    configs: Any
    routing: Any
    stand_ins: StandIns


@lru_cache(maxsize=1)
def library() -> Library:
    """Imports it and makes it a world of one process. Raises Unsupported where it is not there or cannot be imported."""
    place = _place()
    os.environ["NXD_CPU_MODE"] = "1"
    os.environ.setdefault("NXD_LOG_LEVEL", "error")
    stand_ins = StandIns(VENDOR, ANSWERS)
    try:
        with stand_ins:
            experts, configs, routing = (importlib.import_module(f"{PACKAGE}.modules.moe.{name}") for name in MODULES)
            state = importlib.import_module(f"{PACKAGE}.parallel_layers.parallel_state")
    except Exception as error:  # importing foreign code may raise anything
        _forget()
        raise Unsupported(_reason(error, place)) from error
    _start(state)
    return Library(experts, configs, routing, stand_ins)


def _place() -> str:
    """Where the package lies. Its `__init__` is left out: it imports tracing, pipelines and trainers, which need what is not here."""
    spec = find_spec(PACKAGE)
    if spec is None:
        raise Unsupported(f"{_absence()}; {WHERE}")
    sys.modules.setdefault(PACKAGE, module_from_spec(spec))
    return ", ".join(spec.submodule_search_locations or [str(spec.origin)])


def _absence() -> str:
    """PyPI's placeholder installs well and holds no module of this name."""
    try:
        return f"neuronx-distributed {version('neuronx-distributed')} is installed and cannot be imported: PyPI's is a placeholder"
    except PackageNotFoundError:
        return f"{PACKAGE} is not installed"


def _reason(error: Exception, place: str) -> str:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(PACKAGE):
        return f"{PACKAGE} in {place} has no {error.name}: another package, or one too old or too new; {WHERE}"
    return f"{PACKAGE} in {place} cannot be imported: {type(error).__name__}: {error}"


def _forget() -> None:
    """Half an import would be taken for a whole one."""
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def _start(state: Any) -> None:
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if not state.model_parallel_is_initialized():
        state.initialize_model_parallel()
