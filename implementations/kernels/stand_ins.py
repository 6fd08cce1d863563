"""Stand-ins for a vendor's libraries that are not here, so that plain torch code that imports them at its top can be imported.

They compute nothing, and while they are sealed, calling one raises: a result then owes nothing to them.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Dict, Iterator, Mapping, Tuple


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
