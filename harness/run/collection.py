"""How pytest collects this project's own folders: under their import name, whatever directory they lie in.

An editable install maps `moe_harness` to the folders of a checkout. By default pytest names a module after its path (`harness/checks/x.py`
becomes harness.checks.x), so that every module would be loaded twice, and puts the checkout on sys.path.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

import moe_harness
from moe_harness import implementations

# The inner one first: in a wheel one lies within the other.
ROOTS = {Path(package.__path__[0]): package.__name__ for package in (implementations, moe_harness)}


def import_name(path: Path) -> str | None:
    """The dotted name of one of our files or folders; None for any other path."""
    for root, name in ROOTS.items():
        if path.is_relative_to(root):
            return ".".join([name, *path.parent.relative_to(root).parts, path.stem]) if path != root else name
    return None


class OwnModule(pytest.Module):
    """A module of ours, imported by its name."""

    def _getobj(self) -> ModuleType:
        name = import_name(self.path)
        assert name is not None
        module = importlib.import_module(name)
        self.config.pluginmanager.consider_module(module)  # its `pytest_plugins`, as pytest's own import does
        return module


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A plain directory instead of a package, which pytest would import by its path."""
    return pytest.Dir.from_parent(parent, path=path) if import_name(path) else None


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return OwnModule.from_parent(parent, path=module_path) if import_name(module_path) else None
