"""A share done on the machine where this runs. The machine needs the same moe-harness, and what the backend needs."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from moe_harness.records import seal
from moe_harness.run import workers
from moe_harness.run.fleet.share import Share
from moe_harness.run.launch import HERE, pytest_command
from moe_harness.suite.run_spec import RunSpec

Files = dict[str, bytes]  # of a run directory, by path


def perform(spec: RunSpec, share: Share, run_id: str) -> Files:
    """Runs the share's checks in a process of its own and returns what they recorded, without the seal: the whole run gets one. A backend
    that aborts leaves less."""
    with TemporaryDirectory(prefix="moe-harness-share-") as scratch:
        directory = Path(scratch) / run_id
        *command, _ = pytest_command("checks", replace(spec, backend=[share.backend], keyword=None, workers=0), directory)
        nodes = [str(HERE / "checks" / node) for node in share.nodes]
        subprocess.run([*command, *nodes], env=workers.environment(True), capture_output=True, check=False)
        found = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != seal.FILE)
        return {str(path.relative_to(directory)): path.read_bytes() for path in found}
