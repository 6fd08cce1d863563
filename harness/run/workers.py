"""Checks on several processes (pytest-xdist): how many, with how many threads, and what the controller does with a worker that dies.

`worksteal`, because the items are sorted by backend, case and dtype: every worker begins with a contiguous share, whose loaded models and
oracle runs it keeps, and one that is idle takes half of what another has left, so that one slow backend leaves no core idle. `loadgroup`
would keep a group on one worker to its end, and repeats a check that killed its worker until xdist gives up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from moe_harness.processes.threads import THREADS
from moe_harness.records.record import RecordError, read_run

# As environment variables and not as arguments, because xdist's workers are to have them too, before they read their options.
PLUGINS = ("xdist.plugin", "pytest_benchmark.plugin", "_hypothesis_pytestplugin", "moe_harness.run.plugin")
RESTARTS = 100  # an abort costs one check and a new worker; a backend that aborts in every check ends the run in the end
LOST: pytest.StashKey[list[str]] = pytest.StashKey()  # names of the dead workers whose check has its record


def arguments(workers: int) -> Iterator[str]:
    """pytest's arguments for so many workers; none for 0 and 1."""
    if workers > 1:
        yield from ("-n", str(workers), "--dist", "worksteal", "--max-worker-restart", str(RESTARTS))
        yield from ("-p", "no:faulthandler")  # the stacks of many workers say little; the check's `reproduce` command shows its own


def environment(single_thread: bool) -> dict[str, str]:
    """The environment of a run; with `single_thread` one thread a process, unless the user has set a number. pytest in it has our plug-ins
    and no others, whatever is installed or asked of another pytest here, and writes `?` for what its output cannot hold."""
    single = dict.fromkeys(THREADS, "1") if single_thread else {}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    encoding = kept.get("PYTHONIOENCODING", "").partition(":")[0]
    own = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": ",".join(PLUGINS), "PYTHONIOENCODING": f"{encoding}:replace"}
    return single | kept | own


def is_controller(config: pytest.Config) -> bool:
    return config.pluginmanager.hasplugin("dsession")


def worker_name(config: pytest.Config) -> str:
    """Unique over runs; empty outside xdist's workers."""
    given: Mapping[str, Any] = getattr(config, "workerinput", {})
    return _name(given) if given else ""


def _name(given: Mapping[str, Any]) -> str:
    return f"{given['workerid']}-{given['testrunuid']}"


def planned(directory: Path, nodeid: str) -> dict[str, Any] | None:
    """What the plan says of an item that xdist names by its node id, or None where no worker lived long enough to write a plan."""
    path, *rest = nodeid.split("::")
    node = "::".join([Path(path).name, *rest])
    items = (item for record in records(directory) if record["type"] == "plan" for item in record["items"])
    return next((item for item in items if item["node"] == node), None)


def exit_code(node: Any) -> int | None:
    """How a worker process ended, as far as its gateway knows."""
    process = getattr(getattr(node.gateway, "_io", None), "popen", None)  # execnet has no public name for it
    try:
        return process.wait(timeout=5) if process else None
    except Exception:  # still being torn down: how it died is a nicety, that it died is known
        return None


def death(node: Any) -> str:
    """The sentence about a worker process that died."""
    from moe_harness.implementations.worker.bond import ending

    code = exit_code(node)
    return f"the worker process {'died' if code is None else ending(code)} in this check"


def note_lost(node: Any) -> None:
    node.config.stash.setdefault(LOST, []).append(_name(node.workerinput))


def lost_shards(config: pytest.Config, directory: Path) -> list[str]:
    """The shards that dead workers left without `end`, though all that they owed is known: the controller answers for them."""
    lost: list[str] = config.stash.get(LOST, [])
    return sorted({record["shard"] for record in records(directory) if record["type"] == "run" and record.get("worker") in lost})


def judged(directory: Path) -> list[dict[str, Any]]:
    """All workers' records of checks, in time order."""
    return [record for record in records(directory) if record["type"] in ("check", "bench")]


def records(directory: Path) -> list[dict[str, Any]]:
    """All workers' records so far, in time order; none where nothing was written."""
    try:
        return read_run(directory)
    except RecordError:
        return []
