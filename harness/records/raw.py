"""A run directory as it was read, once: its records, before anything is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_harness.records.record import read_run, run_name


@dataclass(frozen=True, eq=False)
class RawRun:
    """`records`: in time order, texts as they stand there."""

    directory: Path
    records: list[dict[str, Any]]

    @property
    def run_id(self) -> str:
        """See `run_name`."""
        return run_name(next((record["run_id"] for record in self.records if record["type"] == "run"), None), self.directory)


def read_raw(directory: Path) -> RawRun:
    """Raises RecordError for what cannot be read."""
    return RawRun(Path(directory), read_run(directory))
