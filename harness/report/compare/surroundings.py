"""What changed around the harness between two runs: machine, versions, commit, what was requested. Read before anything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moe_harness.records.frame import Frame, Run

_FACTS = ("hostname", "os", "python", "cpu", "cores", "threads", "memory_gib", "accelerators", "commit", "dirty")
_OURS = ("commit", "dirty", "moe-harness")  # the change under test: no reason to distrust a speed


@dataclass(frozen=True)
class Surrounding:
    """One fact with its values in the base and in the run, several where several runs differ. `about`: machine | versions | commit |
    requested."""

    about: str
    name: str
    before: str
    after: str

    @property
    def moves_speed(self) -> bool:
        """Whether a speed may differ for this reason alone."""
        return self.about != "requested" and self.name not in _OURS


def surroundings(base: Frame, run: Frame) -> list[Surrounding]:
    """Every fact whose values differ; machine first, then versions, commit, what was requested."""
    before, after = _facts(base), _facts(run)
    names = list(dict.fromkeys([*before, *after]))
    pairs = [(name, before.get(name, "absent"), after.get(name, "absent")) for name in names]
    found = [Surrounding(*name, old, new) for name, old, new in pairs if old != new]
    order = ("machine", "versions", "commit", "requested")
    return sorted(found, key=lambda each: order.index(each.about))


def _facts(frame: Frame) -> dict[tuple[str, str], str]:
    values: dict[tuple[str, str], list[str]] = {}
    for run in frame.runs:
        for name, value in _of(run):
            values.setdefault(name, []).append(value)
    return {name: ", ".join(sorted(set(found))) for name, found in values.items()}


def _of(run: Run) -> Iterator[tuple[tuple[str, str], str]]:
    for name in _FACTS:
        yield ("commit" if name in _OURS else "machine", name), _text(run.environment.get(name))
    for name, version in sorted((run.environment.get("packages") or {}).items()):
        yield ("commit" if name in _OURS else "versions", str(name)), _text(version)
    for name, value in sorted(run.requested.items()):
        yield ("requested", str(name)), _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " + ".join(str(item) for item in value) or "none"
    return str(value)
