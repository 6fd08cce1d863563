"""The registry: names, grammar, entry points, and that one broken plug-in breaks only itself."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from moe_harness.implementations import registry

FACTORY = """
class Made:
    def __init__(self, variant):
        self.name, self.variant = "made", variant
    def capabilities(self): ...
    def from_hf(self, src, dst): ...
    def to_hf(self, src, dst): ...
    def load(self, path, spec): ...

def backend(variant=None):
    return Made(variant)

not_callable = 3

def not_a_backend(variant=None):
    return object()

def without_variant():
    return Made(None)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable module `registry_plugin` with a factory."""
    (tmp_path / "registry_plugin.py").write_text(FACTORY)
    (tmp_path / "registry_broken.py").write_text("raise OSError('libfoo.so is missing')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "registry_plugin"


def install(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    """Makes the registry see these (name, value) entry points, of two made-up groups."""
    made = [EntryPoint(name, value, registry.GROUP) for name, value in points] + [EntryPoint("other", "x:y", "console_scripts")]

    class Found(list):
        def select(self, group: str) -> list[EntryPoint]:
            return [point for point in self if point.group == group]

    monkeypatch.setattr(registry.metadata, "entry_points", lambda: Found(made))


def test_names_lists_in_tree_backends_and_plugins(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, ("zeta", "nowhere.at.all:backend"))
    names = registry.names()
    assert "hf" in names and "zeta" in names and "other" not in names and "families" not in names
    assert names == sorted(set(names))


def test_every_in_tree_name_is_a_folder_with_a_backend(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch)
    root = Path(registry.__file__).parent
    assert registry.names() == sorted(path.name for path in root.iterdir() if (path / "backend.py").is_file())


def test_importing_and_listing_import_no_backend():
    code = (
        "import sys, moe_harness.implementations.registry as r; r.names()\n"
        "bad = [m for m in sys.modules if m.endswith('.backend') or m in ('torch', 'transformers')]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(registry.__file__).parents[1])


def test_importing_the_hf_backend_imports_neither_torch_nor_transformers():
    code = (
        "import sys, moe_harness.implementations.registry as r\n"
        "assert r.backend('hf').name == 'hf'\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(registry.__file__).parents[1])


@pytest.mark.parametrize("declared, refused", [("1.0", False), ("1.7", False), ("2.0", True), ("0.9", True), ("new", True), (None, True)])
def test_another_major_version_is_refused_by_name(plugin: str, monkeypatch: pytest.MonkeyPatch, declared: str | None, refused: bool):
    made = importlib.import_module(plugin).Made(None)
    made.contract_version = declared
    monkeypatch.setattr(f"{plugin}.backend", lambda variant=None: made)
    if not refused:
        assert registry.backend(f"{plugin}:backend") is made
        return
    with pytest.raises(registry.BrokenBackend, match=f"'{plugin}:backend' was written for version {declared} of the contract; this .* 1.0"):
        registry.backend(f"{plugin}:backend")


@pytest.mark.parametrize(
    "raised, expected", [(TypeError, registry.BrokenBackend), (OSError, registry.BrokenBackend), (ValueError, ValueError)]
)
def test_a_factory_that_raises_is_broken_and_named(plugin: str, monkeypatch: pytest.MonkeyPatch, raised: type, expected: type):
    def factory(variant: str | None = None) -> None:
        raise raised("no engine here")

    importlib.import_module(plugin)
    monkeypatch.setattr(f"{plugin}.backend", factory)
    with pytest.raises(expected, match="no engine here") as caught:
        registry.backend(f"{plugin}:backend")
    assert expected is ValueError or f"'{plugin}:backend'" in str(caught.value)


def test_variant_reaches_the_factory_and_the_name():
    assert registry.backend("hf:grouped_mm").name == "hf:grouped_mm"
    with pytest.raises(ValueError, match="nonsense.*grouped_mm"):
        registry.backend("hf:nonsense")


@pytest.mark.parametrize(
    "name, variant",
    [("{}:backend", None), ("{}:backend:v", "v"), ("{}:backend:a:b", "a:b"), ("plug", None), ("plug:v", "v"), ("plug:", None)],
)
def test_factories_by_module_and_by_entry_point(plugin: str, monkeypatch: pytest.MonkeyPatch, name: str, variant: str | None):
    install(monkeypatch, ("plug", f"{plugin}:backend"))
    made: Any = registry.backend(name.format(plugin))
    assert made.variant == variant


@pytest.mark.parametrize("name", ["nothing", "nothing:variant", "", ":", "no such:thing", "hf2:eager", "registry_plugin"])
def test_unknown_name_is_a_specific_readable_error(plugin: str, name: str):
    with pytest.raises(registry.UnknownBackend) as caught:
        registry.backend(name)
    assert str(caught.value).startswith(f"unknown backend {name!r}; known: ") and "hf" in str(caught.value)


@pytest.mark.parametrize("name", ["registry_broken:backend", "bad", "bad:variant", "missing.module:backend", "registry_plugin:absent"])
def test_broken_plugin_is_reported_when_asked_for_and_breaks_nothing_else(plugin: str, monkeypatch: pytest.MonkeyPatch, name: str):
    install(monkeypatch, ("bad", "registry_broken:backend"), ("good", f"{plugin}:backend"))
    assert {"bad", "good", "hf"} <= set(registry.names())
    assert registry.backend("good").name == "made" and registry.backend("hf").name == "hf"
    with pytest.raises(registry.BrokenBackend, match=name.split(":")[0]) as caught:
        registry.backend(name)
    assert caught.value.__cause__ is not None and str(caught.value.__cause__) in str(caught.value)


def test_a_factory_that_takes_no_variant_is_refused(plugin: str):
    with pytest.raises(registry.BrokenBackend, match="cannot be called with a variant"):
        registry.backend(f"{plugin}:without_variant")


@pytest.mark.parametrize("attribute", ["not_callable", "not_a_backend"])
def test_factory_that_is_none(plugin: str, attribute: str):
    with pytest.raises(registry.BrokenBackend, match="not a"):
        registry.backend(f"{plugin}:{attribute}")


def test_entry_point_with_an_in_tree_name_names_both_and_spares_the_others(plugin: str, monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, ("hf", f"{plugin}:backend"), ("good", f"{plugin}:backend"))
    with pytest.raises(registry.AmbiguousBackend, match=f"moe_harness.implementations.hf.backend.*{plugin}:backend"):
        registry.backend("hf")
    assert registry.names().count("hf") == 1
    assert registry.backend("good").name == "made"


def test_two_entry_points_of_one_name(plugin: str, monkeypatch: pytest.MonkeyPatch):
    value = f"{plugin}:backend"
    install(monkeypatch, ("two", value), ("two", "elsewhere:backend"), ("same", value), ("same", value))
    with pytest.raises(registry.AmbiguousBackend, match=f"{plugin}:backend.*elsewhere:backend"):
        registry.backend("two")
    assert registry.backend("same").name == "made"


def test_entry_points_of_python_3_9_are_a_dict(plugin: str, monkeypatch: pytest.MonkeyPatch):
    points = {registry.GROUP: [EntryPoint("plug", f"{plugin}:backend", registry.GROUP)], "other": [EntryPoint("x", "y:z", "other")]}
    monkeypatch.setattr(registry.metadata, "entry_points", lambda: points)
    assert "plug" in registry.names() and "x" not in registry.names() and registry.backend("plug").name == "made"
