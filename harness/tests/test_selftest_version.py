"""What a verdict depends on is part of the version that a self-test's figures carry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from moe_harness.records.selftest_version import HERE, PACKAGES, judging_files, version
from moe_harness.tests.test_import_rules import imports, project_modules


def closure(roots: tuple[str, ...]) -> Iterator[str]:
    """Modules of the harness that these import, directly or not; themselves included."""
    modules = {module.name: module for module in project_modules()}
    todo, seen = [name for name in modules if name.startswith(roots)], set[str]()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            yield name
            todo += [found for _, target in imports(modules[name]) for found in _known(target, modules)]


def _known(target: str, modules: dict) -> list[str]:
    parts = target.split(".")
    prefixes = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return [
        prefix
        for prefix in prefixes
        if prefix in modules and prefix.startswith("moe_harness.") and not prefix.startswith("moe_harness.implementations")
    ]


def test_the_version_covers_all_that_checks_and_faults_import() -> None:
    files = {str(file.relative_to(HERE)) for file in judging_files()}
    needed = {
        name.removeprefix("moe_harness.").replace(".", "/")
        for name in closure(tuple(f"moe_harness.{name}." for name in PACKAGES if name != "selftest"))
    }
    missing = {name for name in needed if not {f"{name}.py", f"{name}/__init__.py"} & files}
    assert len(needed) > 60 and not missing


def test_the_version_follows_the_golden_data(tmp_path: Path) -> None:
    before = version(tmp_path)
    (tmp_path / "floors.json").write_text("{}")
    assert version(tmp_path) != before == version(Path("/nonexistent"))
