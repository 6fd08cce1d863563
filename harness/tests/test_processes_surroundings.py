"""Surroundings that fail a command: a full disk, a directory that is gone or takes nothing, an output that takes nothing. One line, exit
code 4, nothing left, and no check blamed. And another pytest's options and plug-ins, which change nothing."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moe_harness.cli.last_words import one_line
from moe_harness.processes.supervision import INCOMPLETE
from moe_harness.records import whole
from moe_harness.records.record import Recorder, read_run
from moe_harness.run import surroundings, workers
from moe_harness.tests.process_scan import CLI

HONEST = "moe_harness.mutants.catalogue:backend"
RUN = ("run", "--backend", HONEST, "-k", "ROUTE-09 and mixtral", "--dtype", "float32")
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


def command(directory: Path, *words: str, variables: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(directory)} | (variables or {})
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": directory, "env": environment, **options}
    return subprocess.run([sys.executable, "-c", CLI, *words], timeout=120, check=False, **given)


def only_line(done: subprocess.CompletedProcess[bytes]) -> str:
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == INCOMPLETE and line.startswith("error: "), done
    return line


def small_files() -> None:
    """In a child: no file larger than 4 KiB, which fails as a full disk does, for root too."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_disk_that_fills_up(tmp_path: Path, processes: str) -> None:
    done = command(tmp_path, *RUN, "--workers", processes, "--run-dir", "run", preexec_fn=small_files)
    assert "could not write" in only_line(done)
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    assert not list(tmp_path.glob("moe-harness-*")) and not (tmp_path / "reports").exists()


@pytest.mark.parametrize(("option", "said"), [("--run-dir", "Not a directory"), ("--out", "Not a directory")])
def test_a_directory_that_takes_nothing(tmp_path: Path, option: str, said: str) -> None:
    (tmp_path / "file").touch()
    own = ["--run-dir", "run"] if option == "--out" else []
    assert said in only_line(command(tmp_path, *RUN, "--workers", "0", *own, option, "file/x"))


@needs_full
def test_an_output_that_takes_nothing(tmp_path: Path) -> None:
    for arguments in (("list",), (*RUN, "--workers", "0", "--run-dir", "run")):
        with FULL.open("wb") as out:
            assert "No space left on device" in only_line(command(tmp_path, *arguments, stdout=out))


def test_an_output_that_fills_up(tmp_path: Path) -> None:
    """pytest itself writes there, too."""
    with (tmp_path / "out").open("ab") as out:
        out.write(b"x" * 4090)
        out.flush()
        done = command(tmp_path, *RUN, "--workers", "0", "--run-dir", "run", stdout=out, preexec_fn=small_files)
    only_line(done)


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()

    def leave() -> None:
        os.chdir(gone)
        gone.rmdir()

    done = command(tmp_path, *RUN, "--workers", "0", preexec_fn=leave)
    assert only_line(done) == "error: the current directory is gone"


def test_no_home(tmp_path: Path) -> None:
    home = {name: str(tmp_path / "file" / "x") for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    (tmp_path / "file").touch()
    done = command(tmp_path, *RUN, "--workers", "0", "--run-dir", "run", variables=home)
    assert done.returncode == 0, done
    bench = command(tmp_path, "bench", "--backend", HONEST, "-k", "ttft", "--run-dir", "bench", variables=home)
    assert "file/x/moe-harness" in only_line(bench)
    assert not [record for record in read_run(tmp_path / "bench") if record["type"] == "bench"]


def test_characters_that_the_output_does_not_have(tmp_path: Path) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    name = "lauf-größe"
    done = command(tmp_path, *RUN, "--workers", "0", "--run-dir", name, variables=ascii_only)
    assert done.returncode == 0 and b"?" in done.stdout, done
    assert (tmp_path / name).is_dir()


def test_another_pytests_options_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "meddling.py").write_text("def pytest_collection_modifyitems(items):\n    items *= 2\n")
    others = {
        "PYTEST_ADDOPTS": "-p no:xdist -p no:moe_harness -x --reruns 3 -k nothing",
        "PYTEST_PLUGINS": "meddling",
        "PYTHONPATH": str(tmp_path),
    }
    done = command(tmp_path, *RUN, "--workers", "2", "--run-dir", "run", variables=others)
    records = read_run(tmp_path / "run")
    assert done.returncode == 0, done
    assert [record["status"] for record in records if record["type"] == "check"] == ["PASS"]
    assert len({record["worker"] for record in records if record["type"] == "run"}) == 2


def test_pytest_in_a_run_has_our_plugins_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-x")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1:strict")
    found = workers.environment(False)
    assert {name for name in found if name.startswith("PYTEST_")} == {"PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTEST_PLUGINS"}
    assert "moe_harness.run.plugin" in found["PYTEST_PLUGINS"] and found["PYTHONIOENCODING"] == "latin-1:replace"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EFBIG])
def test_the_exit_code_says_why(number: int) -> None:
    assert surroundings.why(surroundings._code(number)) == os.strerror(number)


@pytest.mark.parametrize("code", [None, 0, 1, 3, 143, 199, 241, 255, -9])
def test_other_exit_codes_say_nothing(code: int | None) -> None:
    assert surroundings.why(code) is None


@pytest.mark.parametrize(
    ("text", "full"),
    [("[Errno 28] No space left on device: 'x'", True), ("I/O error: No space left on device (os error 28)", True),
     ("RemoteError: OSError: [Errno 30] Read-only file system", True), ("[Errno 2] No such file", False), ("Errno 280", False)],
)  # fmt: skip
def test_a_full_disk_in_a_check_is_no_failure_of_it(monkeypatch: pytest.MonkeyPatch, text: str, full: bool) -> None:
    left: list[int] = []
    monkeypatch.setenv("MOE_HARNESS_TREE", "mark")
    monkeypatch.setattr(surroundings, "_leave", lambda config, code: left.append(code))
    monkeypatch.setattr(surroundings, "run_directory", lambda config: Path("run"))
    surroundings.heed(None, RuntimeError(text))
    assert not left  # our own places take what we write: it is the backend's disk
    monkeypatch.setattr(surroundings, "_takes", lambda place: False)
    surroundings.heed(None, RuntimeError(text))
    assert bool(left) == full


ENDS = """import os
from moe_harness.mutants.catalogue import backend as subject

class Ends:
    def __init__(self, code):
        self.name, self._code, inner = f"ends:backend:{code}", int(code), subject(None)
        self.capabilities, self.from_hf, self.to_hf = inner.capabilities, inner.from_hf, inner.to_hf

    def load(self, path, spec):
        os._exit(self._code)

def backend(variant=None):
    return Ends(variant)
"""


@pytest.mark.parametrize("code", [143, 201, 228])
def test_a_backend_that_ends_its_process_costs_its_checks_alone(tmp_path: Path, code: int) -> None:
    """Whatever its exit code: the disk is not full, and nobody has cancelled."""
    (tmp_path / "ends.py").write_text(ENDS)
    asked = ("--backend", f"ends:backend:{code}", "--backend", HONEST, "--dtype", "float32", "-k", "BLOCK-01 and mixtral")
    done = command(tmp_path, "run", *asked, "--workers", "2", "--run-dir", "run", variables={"PYTHONPATH": str(tmp_path)})
    found = {record["backend"]: record["status"] for record in read_run(tmp_path / "run") if record["type"] == "check"}
    assert done.returncode == 1 and found == {f"ends:backend:{code}": "CRASHED", HONEST: "PASS"}, done


def test_a_reader_that_went_away_is_no_new_failure(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        assert "reader of standard output" in only_line(command(tmp_path, "records", "schema", "check", stdout=out))


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, data: bytes) -> int:
        path.open("xb").write(data[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    whole.replace(tmp_path / "old", "before")
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(whole.Unwritable, match="cannot write .*old: No space left"):
        whole.replace(tmp_path / "old", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_text() == "before"


def test_a_record_written_in_part_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short:
        def write(self, line: bytes) -> int:
            return len(line) - 1

    recorder = Recorder(tmp_path)
    monkeypatch.setattr(recorder, "_shard", Short)
    with pytest.raises(whole.Unwritable, match="in part only") as caught:
        recorder.write("end", exit_status=0)
    assert caught.value.errno == errno.ENOSPC


def test_one_line_for_an_error_of_the_system(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_harness.cli.last_words._silence", lambda: None)

    def fail() -> None:
        with one_line():
            os.stat("/dev/null/x")

    with pytest.raises(SystemExit) as caught:
        fail()
    assert caught.value.code == INCOMPLETE
    assert capfd.readouterr().err == "error: Not a directory: '/dev/null/x'\n"
