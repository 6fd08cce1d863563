"""Model families: one file each, found by listing this folder. `detect(config.json)` picks one by its architecture string."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache
from typing import Any, Dict, List, Mapping

from moe_harness.implementations.families.config import ConfigError
from moe_harness.implementations.families.family import Family, RoutingFamily


@lru_cache(maxsize=None)
def families() -> Dict[str, Family]:
    """Every family by name: each module of this folder that defines FAMILY."""
    return {family.name: family for family in _defined("FAMILY")}


@lru_cache(maxsize=None)
def routing_families() -> Dict[str, RoutingFamily]:
    """Every family whose router alone is described: each module of this folder that defines ROUTING."""
    return {family.name: family for family in _defined("ROUTING")}


def _defined(name: str) -> List[Any]:
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return [getattr(module, name) for module in modules if hasattr(module, name)]


def family(name: str) -> Family:
    """The family of that name. Raises KeyError that lists the known ones."""
    if name not in families():
        raise KeyError(f"unknown family {name!r}; known: {', '.join(sorted(families()))}")
    return families()[name]


def detect(raw: Mapping[str, Any]) -> Family:
    """The family of a parsed config.json, by `architectures`. Raises ConfigError: none, several, an unknown one, another `model_type`."""
    architectures = raw.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1:
        raise ConfigError("architectures", f"expected a list of one architecture, got {architectures!r}")
    for candidate in families().values():
        if candidate.architecture == architectures[0]:
            if raw.get("model_type", candidate.name) != candidate.name:  # transformers picks the class by it
                raise ConfigError("model_type", f"{raw['model_type']!r} contradicts architecture {candidate.architecture}")
            return candidate
    known = ", ".join(sorted(f.architecture for f in families().values()))
    raise ConfigError("architectures", f"unknown architecture {architectures[0]!r}; known: {known}")
