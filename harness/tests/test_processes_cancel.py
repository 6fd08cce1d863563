"""A cancelled command ends, and so does everything under it: workers of xdist, foreign interpreters with children of their own and deaf to
SIGTERM, a kernel, a pool, the ranks of a mesh. So it does where the command itself is killed."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from moe_harness.processes import supervision, tree
from moe_harness.processes.supervision import INCOMPLETE
from moe_harness.records.record import read_run
from moe_harness.tests.process_scan import Command

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
HANGS = "moe_harness.implementations.tests.toy_misbehaves:backend:hang"
HONEST = "moe_harness.mutants.catalogue:backend"
RUN = ("run", "--dtype", "float32", "--run-dir", "run")
SIGNALS: dict[int, int] = {signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}


def report(directory: Path) -> tuple[int, str]:
    (directory / "report").mkdir()
    command = Command(directory / "report", "report", str(directory / "run"))
    return command.process.wait(60), command.out


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_ends_with_its_workers_and_their_interpreters(tmp_path: Path, number: int) -> None:
    command = Command(tmp_path, *RUN, "--backend", HANGS, "--python", f"{HANGS}=", "-k", "BLOCK and mixtral", "--workers", "2")
    command.until(lambda command: len(command.lives("sleep 600")) == 2)
    assert len(command.lives()) >= 8  # ours, pytest, two workers of xdist, two interpreters, their two children
    assert command.ended(number) == SIGNALS[number]
    assert not list(command.tmp.glob("moe-harness-*"))
    kinds = [record["type"] for record in read_run(tmp_path / "run")]
    assert "plan" in kinds and "end" not in kinds and "check" not in kinds
    assert number == signal.SIGKILL or "moe-harness report run" in command.err
    if number == signal.SIGTERM:
        code, said = report(tmp_path)
        assert code == INCOMPLETE and "INCOMPLETE" in said


def test_a_backend_deaf_to_signals_in_this_process_is_killed(tmp_path: Path) -> None:
    command = Command(tmp_path, *RUN, "--backend", HANGS, "-k", "BLOCK and mixtral", "--workers", "0")
    command.until(lambda command: command.lives("sleep 600"))
    assert command.ended(signal.SIGTERM) == 143


def test_records_of_a_cancelled_run_stay(tmp_path: Path) -> None:
    """The check that was under way is no failure, and what came before it is kept."""
    pair = ("--backend", HONEST, "--backend", HANGS, "--python", f"{HANGS}=")
    command = Command(tmp_path, *RUN, *pair, "-k", "BLOCK and mixtral", "--workers", "0")
    command.until(lambda command: command.lives("sleep 600"))
    assert command.ended(signal.SIGTERM) == 143
    statuses = {record["status"] for record in read_run(tmp_path / "run") if record["type"] == "check"}
    assert statuses == {"PASS"}


@needs_torch
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_kernel_ends(tmp_path: Path, number: int) -> None:
    function = "moe_harness.implementations.tests.wrong_kernels:hangs"
    command = Command(tmp_path, "kernel", function, "--like", "mixtral-8x7b", "--no-true-shape", "--dtype", "fp32", "--case", "tokens-16",
                      "--case", "tokens-17")  # fmt: skip
    command.until(lambda command: "tokens-16" in command.out)
    assert command.ended(number) == SIGNALS[number]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_self_test_ends(tmp_path: Path, number: int) -> None:
    command = Command(tmp_path, "selftest", "--quick", "--honest-runs", "5", "--workers", "2")
    command.until(lambda command: len(command.lives("multiprocessing.spawn")) == 2)
    assert command.ended(number) == SIGNALS[number]
    assert number == signal.SIGKILL or not list(command.tmp.glob("moe-harness-*"))


MESH = """
import sys, time
from contextlib import nullcontext
from moe_harness.implementations.neuron.crew import Crew
from moe_harness.implementations.neuron.mesh import Degrees
from moe_harness.processes.supervision import cancellable

if __name__ == "__main__":
    with cancellable() if sys.argv[1] == "cancellable" else nullcontext():
        crew = Crew(Degrees(2, 1, "cpu"))
        print("ready")
        time.sleep(600)
"""


@needs_torch
@pytest.mark.parametrize(("how", "number"), [("cancellable", signal.SIGTERM), ("cancellable", signal.SIGKILL), ("alone", signal.SIGKILL)])
def test_the_ranks_of_a_mesh_end(tmp_path: Path, how: str, number: int) -> None:
    """Without a guardian too: each rank watches its parent."""
    (tmp_path / "mesh.py").write_text(MESH)
    command = Command(tmp_path, how, program="import runpy, sys; runpy.run_path('mesh.py', run_name='__main__')")
    command.until(lambda command: "ready" in command.out)
    assert len(command.lives("forkserver")) == 3
    assert command.ended(number) == SIGNALS[number]


STUCK = """
import ctypes, sys
from moe_harness.processes.supervision import cancellable

with cancellable():
    lock, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)  # which holds the interpreter's lock
    library.pthread_mutex_lock(lock)
    print("ready")
    library.pthread_mutex_lock(lock)
"""


def test_a_command_stuck_in_a_library_is_killed_by_its_guardian(tmp_path: Path) -> None:
    command = Command(tmp_path, program=STUCK)
    command.until(lambda command: "ready" in command.out)
    assert command.ended(signal.SIGTERM) == -signal.SIGKILL


def test_a_command_that_ends_by_itself_leaves_what_it_started_alone(tmp_path: Path) -> None:
    """A server that a backend keeps for the next run."""
    imports = "import subprocess\nfrom moe_harness.processes.supervision import cancellable\n"
    command = Command(tmp_path, program=f"{imports}with cancellable(): subprocess.Popen(['sleep', '7'])")
    assert command.process.wait(30) == 0
    time.sleep(0.5)
    assert command.lives() == ["sleep 7 "]


def test_ignored_signals_stay_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with supervision.cancellable():
            os.kill(os.getpid(), signal.SIGHUP)
            assert tree.VARIABLE in os.environ
        assert tree.VARIABLE not in os.environ
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("asleep", ["time.sleep(600)", "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
def test_a_call_over_its_time_is_ended_with_all_under_it(asleep: str) -> None:
    inner = f"import signal, time; {asleep}"
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {inner!r}], start_new_session=True); {inner}"
    mark = "test_a_call_over_its_time"
    began = time.monotonic()
    assert supervision.call([sys.executable, "-c", program], dict(os.environ) | {"SCAN": mark}, seconds=1.0) is None
    assert 1.0 <= time.monotonic() - began < 1.0 + tree.GRACE_S + tree.KILL_S + 1.0
    assert not list(tree.members(mark))


def test_a_call_in_time_has_its_exit_code() -> None:
    assert supervision.call([sys.executable, "-c", "raise SystemExit(7)"], dict(os.environ), seconds=60.0) == 7


def test_time_is_not_up_before_a_call_is_ready() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(1)"]
    assert supervision.call(command, dict(os.environ), seconds=0.0, ready=lambda: False) == 0
    assert supervision.call(command, dict(os.environ), seconds=0.0, ready=lambda: True) is None


def test_processes_are_a_leaf() -> None:
    """What supervises imports nothing of the harness but its neighbours, and what guards nothing but the standard library."""
    for path in Path(tree.__file__).parent.glob("*.py"):
        names = [node.module or "" for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
        allowed = () if path.name == "tree.py" else ("moe_harness.processes",)
        assert not [name for name in names if name.startswith("moe_harness") and not name.startswith(allowed)], path


def test_a_ctrl_c_that_a_debugger_handles_ends_nothing(tmp_path: Path) -> None:
    program = "import os, signal, time\nfrom moe_harness.processes.supervision import cancellable\nwith cancellable():\n"
    program += "    signal.signal(signal.SIGINT, lambda *_: print('handled'))\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(4)\n"
    command = Command(tmp_path, program=program)
    assert command.process.wait(30) == 0 and "handled" in command.out


def test_outside_the_main_thread_nothing_is_set_up() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(_enter).result() is True


def _enter() -> bool:
    with supervision.cancellable():
        return tree.VARIABLE not in os.environ


def test_the_plugin_can_be_imported_where_there_is_no_hangup_signal() -> None:
    code = "import signal; del signal.SIGHUP; import moe_harness.run.plugin"
    subprocess.run([sys.executable, "-c", code], check=True)
