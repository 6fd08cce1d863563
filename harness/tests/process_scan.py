"""Commands of ours in real processes, and which of their processes still live, told without the code under test."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

CLI = "from moe_harness.cli.app import main; main()"
VARIABLE = "PROCESS_SCAN"


def _heed_signals() -> None:
    """A test run under nohup, or in the background of a shell, hands down that it ignores them."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


class Command:
    """A started `python -c PROGRAM ARGUMENTS`, whose output goes into files of `directory`, and its temporary files into `tmp`."""

    def __init__(self, directory: Path, *arguments: str, program: str = CLI):
        self._mark, self._directory = secrets.token_hex(8), directory
        self.tmp = Path(tempfile.mkdtemp(prefix="scan-", dir="/tmp"))  # short: the path of a socket has at most 107 bytes
        own = {VARIABLE: self._mark, "TMPDIR": str(self.tmp), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                cwd=directory, env=os.environ | own, stdout=out, stderr=err, preexec_fn=_heed_signals,
            )  # fmt: skip

    @property
    def out(self) -> str:
        return (self._directory / "out").read_text()

    @property
    def err(self) -> str:
        return (self._directory / "err").read_text()

    def lives(self, words: str = "") -> list[str]:
        """The command lines, with these words in them, of the command's living processes, itself included."""
        return [line for _, line in self._found() if words in line]

    def _found(self) -> Iterator[tuple[int, str]]:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (path / "environ").read_bytes():
                    yield int(path.name), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue

    def until(self, true: Callable[[Command], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not true(self):
            assert self.process.poll() is None and time.monotonic() < deadline, f"{self.out}\n{self.err}\n{self.lives()}"
            time.sleep(0.05)

    def ended(self, number: int, seconds: float = 5.0) -> int:
        """The exit code after this signal. AssertionError for a process that lives so many seconds later."""
        began = time.monotonic()
        self.process.send_signal(number)
        try:
            code = self.process.wait(seconds)
            while self.lives():
                assert time.monotonic() - began < seconds, self.lives()
                time.sleep(0.05)
            return code
        finally:  # where the code under test did not
            for pid, _ in self._found():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
