"""What makes a row of one run the same question as a row of another: not its machine's name, nor where its function stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moe_harness.records.frame import Frame, Run

Row = Mapping[str, Any]


@dataclass(frozen=True, order=True)
class Key:
    """`check`: a clause, or a benchmark's workload. `variant`: the parameters of the check itself, as pytest names them. `hardware`: set
    where the same question was put to several kinds of machine, else ""."""

    kind: str
    check: str
    backend: str
    case: str
    dtype: str
    variant: str = ""
    hardware: str = ""

    @property
    def place(self) -> str:
        """Where it was asked, in words."""
        named = (
            self.backend,
            self.case,
            self.dtype,
            f"[{self.variant}]" if self.variant else "",
            f"on {self.hardware}" * bool(self.hardware),
        )
        return " ".join(filter(None, named))

    def __str__(self) -> str:
        return f"{self.check} {self.place}"


def key(row: Row, hardware: str = "") -> Key:
    """The key of a frame's row."""
    subject = f"{row['backend']}-{row['case']}-{row['dtype']}"
    bracket = str(row["node"]).partition("[")[2].removesuffix("]")
    variant = bracket.replace(subject, "").strip("-")
    if row["kind"] == "pair":
        variant = f"{row['parameters']} against {row['facts'].get('a')}".strip()
    return Key(row["kind"], row["check"], row["backend"], row["case"], row["dtype"], variant, hardware)


def hardware(run: Run) -> str:
    """Accelerators, or else the processor: runners come and go, and each has another host name."""
    named = ", ".join(str(name) for name in run.environment.get("accelerators") or ())
    return named or str(run.environment.get("cpu") or "unknown hardware")


def by_key(base: Frame, run: Frame) -> tuple[dict[Key, list[Row]], dict[Key, list[Row]]]:
    """The rows of both frames by key. Hardware tells keys apart only where one of the frames needs it."""
    several = _on_several(base) | _on_several(run)
    return _keyed(base, several), _keyed(run, several)


def _on_several(frame: Frame) -> set[Key]:
    seen: dict[Key, set[str]] = {}
    for row, where in _placed(frame):
        seen.setdefault(key(row), set()).add(where)
    return {found for found, places in seen.items() if len(places) > 1}


def _keyed(frame: Frame, several: set[Key]) -> dict[Key, list[Row]]:
    found: dict[Key, list[Row]] = {}
    for row, where in _placed(frame):
        found.setdefault(key(row, where if key(row) in several else ""), []).append(row)
    return found


def _placed(frame: Frame) -> Iterable[tuple[Row, str]]:
    places = {run.run_id: hardware(run) for run in frame.runs}
    return [(row, places[row["run"]]) for row in frame.records()]
