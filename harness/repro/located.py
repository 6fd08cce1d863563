"""Where the weights are that a capsule speaks of."""

from __future__ import annotations

from pathlib import Path

from moe_harness.cases.cases import golden_root
from moe_harness.repro.capsule import Capsule, checkpoint_facts


def golden_checkpoint(capsule: Capsule) -> Path | None:
    """The golden directory of that name, if its weights are the capsule's."""
    return _same(capsule, golden_root() / capsule.identity["case"] / "checkpoint")


def checkpoint_of(capsule: Capsule) -> Path | None:
    """The golden directory, or the one that the capsule names, whichever has the capsule's weights."""
    return golden_checkpoint(capsule) or _same(capsule, Path(capsule.checkpoint.get("path", "")))


def _same(capsule: Capsule, directory: Path) -> Path | None:
    wanted = capsule.checkpoint.get("sha256")
    return directory if wanted and directory.is_dir() and checkpoint_facts(directory).get("sha256") == wanted else None
