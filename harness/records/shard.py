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
    """Every shard of a run, by name; of one that is there twice, the plain one: gzip may not be done with the other."""
    found = {shard.name: shard for suffix in (PACKED, "") for shard in map(Shard, directory.glob(f"records-*.jsonl{suffix}"))}
    return [found[name] for name in sorted(found)]
