"""Workers that die, hang, flood or talk nonsense: one call fails and says why, the next finds a fresh worker, nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_harness.implementations.interface import LoadSpec, ModelCapabilities
from moe_harness.implementations.tests.tiny import tiny_checkpoint
from moe_harness.implementations.tests.toy_backend import ToyBackend
from moe_harness.implementations.worker import RemoteError, WorkerBackend, WorkerCrashed, WorkerTimeout
from moe_harness.implementations.worker import child as child_module

MISBEHAVES = "moe_harness.implementations.tests.toy_misbehaves:backend"
X_TD = np.ones((1, 32), np.float32)
TIMEOUT = 3.0  # of the calls that are to run into it; generous, since a start takes a few tenths of a second


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "checkpoint"
    tiny_checkpoint(path)
    return path


@pytest.fixture
def misbehaving(checkpoint):
    """A function from a misbehaviour to (backend, model)."""
    made = []

    def make(act: str, timeout: float = 60.0) -> tuple[WorkerBackend, Any]:
        backend = WorkerBackend(f"{MISBEHAVES}:{act}", timeout=timeout)
        made.append(backend)
        return backend, backend.load(str(checkpoint), LoadSpec())

    yield make
    for backend in made:
        backend.close()


def process_of(backend: WorkerBackend) -> subprocess.Popen:
    return backend._handle.child._process


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def gone(pid: int) -> bool:
    """No such process, or one that its own parent has yet to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        ("abort", WorkerCrashed, "died of SIGABRT during moe_block"),
        ("exit", WorkerCrashed, "ended with exit code 3 during moe_block"),
        ("sys_exit", WorkerCrashed, "ended with exit code 4 during moe_block"),
        ("kill", WorkerCrashed, "died of SIGKILL during moe_block"),
        ("leave_a_fork", WorkerCrashed, "ended with exit code 3 during moe_block"),
        ("disturb", WorkerCrashed, "sent a malformed reply to moe_block and was killed: expected a message, got bytes"),
        ("hang", WorkerTimeout, "did not end moe_block within 3 s and was killed"),
        ("flood_for_ever", WorkerTimeout, "did not end moe_block within 3 s and was killed"),
    ],
)
def test_one_call_fails_and_the_next_worker_is_fresh(misbehaving, checkpoint, act, kind, message):
    backend, model = misbehaving(act, TIMEOUT if kind is WorkerTimeout else 60.0)
    process = process_of(backend)
    began = time.monotonic()
    with pytest.raises(WorkerCrashed) as caught:
        model.moe_block(0, X_TD)
    assert type(caught.value) is kind and message in str(caught.value)
    assert time.monotonic() - began < TIMEOUT + 5
    assert process.returncode is not None, "not waited for: a zombie"
    assert not model.alive
    again = backend.load(str(checkpoint), LoadSpec())
    assert process_of(backend).pid != process.pid
    assert isinstance(again.capabilities(), ModelCapabilities)


def test_models_of_a_dead_worker_fail_at_once_and_alike(misbehaving):
    backend, model = misbehaving("kill")
    with pytest.raises(WorkerCrashed) as first:
        model.moe_block(0, X_TD)
    began = time.monotonic()
    with pytest.raises(WorkerCrashed) as second:
        model.reset()
    assert time.monotonic() - began < 0.5 and str(second.value) == str(first.value)
    model.close()


def test_an_abort_leaves_its_last_words_and_its_stack(misbehaving):
    _, model = misbehaving("abort")
    with pytest.raises(WorkerCrashed, match="about to abort(.|\n)*Fatal Python error: Aborted(.|\n)*in abort"):
        model.moe_block(0, X_TD)


def test_a_hanging_worker_takes_its_children_along(misbehaving):
    _, model = misbehaving("hang", TIMEOUT)
    with pytest.raises(WorkerTimeout) as caught:
        model.moe_block(0, X_TD)
    grandchild = int(re.search(r"child (\d+)", str(caught.value))[1])
    assert eventually(lambda: gone(grandchild))


def test_a_flood_neither_blocks_nor_disturbs(misbehaving, checkpoint):
    """10 MB into standard output and 10 MB into standard error, then the right answer; little of it is kept."""
    backend, model = misbehaving("flood")
    sane = ToyBackend().load(str(checkpoint), LoadSpec())
    assert np.array_equal(model.moe_block(0, X_TD), sane.moe_block(0, X_TD))
    assert len(backend._handle.child._tail._kept) <= child_module.KEPT_OUTPUT


def test_an_exception_is_no_death(misbehaving):
    _, model = misbehaving("unknown_error")
    with pytest.raises(RemoteError, match="ZeroDivisionError"):
        model.moe_block(0, X_TD)
    assert model.alive and isinstance(model.capabilities(), ModelCapabilities)


def test_dead_at_the_start(tmp_path, monkeypatch):
    """A vendor's library that aborts when it is imported; the next call tries again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aborts.py").write_text("import os; os._exit(7)")
    backend = WorkerBackend("aborts:backend")
    for _ in range(2):
        with pytest.raises(WorkerCrashed, match="ended with exit code 7 during its start"):
            backend.capabilities()


def test_an_interrupted_call_ends_the_worker(misbehaving, monkeypatch):
    """Ctrl-C in the middle of a call: what is left of the reply must not be taken for the next one's."""
    backend, model = misbehaving("hang")
    process = process_of(backend)
    monkeypatch.setattr(child_module.time, "monotonic", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        model.moe_block(0, X_TD)
    monkeypatch.undo()
    assert process.returncode is not None and not model.alive


def test_close_does_not_wait_for_a_call_that_hangs(misbehaving):
    """As at the end of a run, in which a call of another thread is still under way."""
    backend, model = misbehaving("hang")
    process = process_of(backend)
    threading.Thread(target=suppressed(model.moe_block), args=(0, X_TD), daemon=True).start()
    time.sleep(0.3)
    began = time.monotonic()
    backend.close()
    assert time.monotonic() - began < 8 and process.returncode is not None


def suppressed(call):
    def run(*args):
        with suppress(WorkerCrashed):
            call(*args)

    return run


LEAVES = """
import os, sys, threading
from moe_harness.implementations.interface import LoadSpec
from moe_harness.implementations.worker import WorkerBackend
import numpy as np
backend = WorkerBackend("moe_harness.implementations.tests.toy_misbehaves:backend:hang")
model = backend.load(sys.argv[1], LoadSpec())
print(backend._handle.child._process.pid, flush=True)
if sys.argv[2] == "hanging":
    threading.Thread(target=model.moe_block, args=(0, np.ones((1, 32), np.float32)), daemon=True).start()
    threading.Event().wait(0.5)
if sys.argv[2] != "exit":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["exit", "killed", "hanging"])
def test_the_worker_ends_with_the_near_side(checkpoint, end, tmp_path):
    """Left open at exit, killed between calls, killed during a call that hangs and ignores SIGTERM: no process and no file stays."""
    command = [sys.executable, "-c", LEAVES, str(checkpoint), end]
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (0 if end == "exit" else -signal.SIGKILL), done.stderr
    assert eventually(lambda: gone(int(done.stdout)) and not list(tmp_path.iterdir()))


def test_a_fork_of_the_near_side_leaves_the_worker_alone(misbehaving):
    backend, model = misbehaving("abort")
    if (pid := os.fork()) == 0:
        backend._handle.child._end()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert isinstance(model.capabilities(), ModelCapabilities)
