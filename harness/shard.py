"""The files of a run's records: JSONL as they are written, gzipped (`gzip -9 records-*.jsonl`) where a run is kept. A gzipped shard keeps
its name and its content, so a run's seal stands."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

PACKED = ".gz"


@dataclass(frozen=True)
class Shard:
    path: Path

    @property
    def name(self) -> str:
        """As it was written."""
        return self.path.name.removesuffix(PACKED)

    def content(self) -> bytes:
        """Raises ValueError, naming the file, for one that is no whole gzip file."""
        raw = self.path.read_bytes()
        try:
            return gzip.decompress(raw) if self.path.suffix == PACKED else raw
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{self.path}: not a gzip file: {error}") from error


def shards(directory: Path) -> list[Shard]:
    """Every shard of a run, by name."""
    found = (Shard(path) for suffix in ("", PACKED) for path in directory.glob(f"records-*.jsonl{suffix}"))
    return sorted(found, key=lambda shard: shard.name)
