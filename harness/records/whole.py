"""Files that are there whole or not at all, and the one error for what cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Unwritable(OSError):
    """Something of ours that cannot be written, by no fault of what is judged: a full disk, a read-only directory. `str()` is one line."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes every OSError inside an Unwritable about `path`, with the same errno."""
    try:
        yield
    except OSError as error:
        raise Unwritable(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def replace(path: Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8. A reader never sees half of it, and where it cannot be written nothing is left. Raises Unwritable."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            part.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def make_directory(path: Path) -> None:
    """With its parents, unless it is there. Raises Unwritable."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
