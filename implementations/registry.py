"""Backends by name: in-tree folders that hold a backend.py, entry points of other distributions, and factories named by module.

A specification is `NAME[:VARIANT]`, or `MODULE.PATH:FACTORY[:VARIANT]` for code without an entry point. Every factory has the signature
`backend(variant: str | None = None) -> Backend`. Nothing is imported before it is asked for, so a broken plug-in breaks only itself.
Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from moe_harness.implementations.interface import CONTRACT_VERSION, Backend, Unsupported

GROUP = "moe_harness.backends"
PACKAGE = "moe_harness.implementations"
UNDECLARED = "1.0"  # the version of the contract that a backend without `contract_version` was written for, for good
Factory = Callable[[Optional[str]], Backend]


class UnknownBackend(KeyError):
    """No backend of that name. `str()` lists the known ones."""

    def __str__(self) -> str:  # KeyError shows the repr of its argument, which is unreadable for a sentence
        return str(self.args[0])


class AmbiguousBackend(ValueError):
    """Two distributions, or a distribution and this project, claim one name. Names both."""


class BrokenBackend(ImportError):
    """A known backend that cannot be imported, whose factory is not one, or that was written for another version of the contract.
    `__cause__` holds the original error where there is one."""


def names() -> List[str]:
    """Every name that `backend` takes, sorted; a broken or ambiguous plug-in included. Imports none of them."""
    return sorted({*_in_tree(), *_entry_points()})


def backend(name: str) -> Backend:
    """The backend that the specification `name` asks for.

    Raises UnknownBackend, AmbiguousBackend, BrokenBackend, and whatever the factory raises for a variant it does not know (ValueError).
    """
    factory, variant = _resolve(name)
    made = _made(name, factory, variant)
    if not all(callable(getattr(made, method, None)) for method in ("capabilities", "from_hf", "to_hf", "load")):
        raise BrokenBackend(f"backend {name!r}: its factory returned {made!r}, which is not a Backend")
    check_contract(name, getattr(made, "contract_version", UNDECLARED))
    return made


def _made(name: str, factory: Factory, variant: Optional[str]) -> Backend:
    """The backend. A ValueError is the factory's own word on a variant, and Unsupported on this machine; anything else is a fault of it."""
    try:
        return factory(variant)
    except (ValueError, Unsupported):
        raise
    except Exception as error:
        raise BrokenBackend(f"backend {name!r}: its factory raised {type(error).__name__}: {error}") from error


def check_contract(name: str, declared: object) -> None:
    """Raises BrokenBackend for a backend written for another major version of the contract, or for something that is no version."""
    if str(declared).split(".")[0] != CONTRACT_VERSION.split(".")[0]:
        raise BrokenBackend(f"backend {name!r} was written for version {declared} of the contract; this moe-harness has {CONTRACT_VERSION}")


def _resolve(name: str) -> Tuple[Factory, Optional[str]]:
    head, *rest = name.split(":")
    in_tree, plugins = _in_tree(), _entry_points()
    if head in in_tree or head in plugins:
        return _named(name, head, in_tree, plugins), ":".join(rest) or None
    if rest and rest[0] and _is_module(head):
        return _from_module(name, head, rest[0]), ":".join(rest[1:]) or None
    known = ", ".join(sorted({*in_tree, *plugins}))
    raise UnknownBackend(f"unknown backend {name!r}; known: {known}; or MODULE.PATH:FACTORY[:VARIANT]")


def _named(name: str, head: str, in_tree: Dict[str, str], plugins: Dict[str, List[Any]]) -> Factory:
    claims = [in_tree[head]] if head in in_tree else []
    claims += [_describe(point) for point in plugins.get(head, [])]
    if len(claims) > 1:
        raise AmbiguousBackend(f"backend {head!r} is claimed by {' and by '.join(claims)}; uninstall or rename one")
    if head in in_tree:
        return _from_module(name, in_tree[head], "backend")
    return _checked(name, claims[0], plugins[head][0].load)


def _from_module(name: str, module: str, attribute: str) -> Factory:
    return _checked(name, f"{module}:{attribute}", lambda: getattr(importlib.import_module(module), attribute))


def _checked(name: str, origin: str, load: Callable[[], Any]) -> Factory:
    """The factory, or BrokenBackend: importing a plug-in runs foreign code, which may raise anything."""
    try:
        factory = load()
    except Exception as error:
        raise BrokenBackend(f"backend {name!r} ({origin}) cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(factory):
        raise BrokenBackend(f"backend {name!r} ({origin}) is {factory!r}, not a callable that takes a variant")
    if not _takes_a_variant(factory):
        raise BrokenBackend(f"backend {name!r} ({origin}) cannot be called with a variant (a str or None)")
    return factory


def _takes_a_variant(factory: Callable[..., Any]) -> bool:
    try:
        inspect.signature(factory).bind(None)
    except TypeError:
        return False
    except ValueError:  # built in, without a signature: its call will tell
        return True
    return True


def _in_tree() -> Dict[str, str]:
    """name -> module of every folder beside this file that holds a backend.py."""
    here = Path(__file__).parent
    return {file.parent.name: f"{PACKAGE}.{file.parent.name}.backend" for file in here.glob("*/backend.py")}


def _entry_points() -> Dict[str, List[Any]]:
    """name -> entry points of the group; more than one where distributions collide. The same line found twice on sys.path counts once."""
    found: Any = metadata.entry_points()
    points = found.select(group=GROUP) if hasattr(found, "select") else found.get(GROUP, ())  # a plain dict before Python 3.10
    grouped: Dict[str, List[Any]] = {}
    for point in points:
        same_name = grouped.setdefault(point.name, [])
        if point.value not in [other.value for other in same_name]:
            same_name.append(point)
    return grouped


def _describe(point: Any) -> str:
    distribution = getattr(point, "dist", None)
    owner = f"distribution {distribution.name}" if distribution is not None else "an installed distribution"
    return f"{point.value} of {owner}"


def _is_module(head: str) -> bool:
    """A dotted path is taken at its word (looking it up would import its parents); a single word must be importable."""
    if not all(part.isidentifier() for part in head.split(".")):
        return False
    return "." in head or importlib.util.find_spec(head) is not None
