"""The directory through which a worker's interpreter gets to see our package and nothing else of ours."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

PACKAGE = "moe_harness"
PREFIX = "moe-harness-worker-"


def lend() -> Path:
    """A new directory with an empty package `moe_harness` that holds links to `implementations` and to the public `interface`. The real
    package's parent would bring along all that is installed beside it."""
    lent = Path(tempfile.mkdtemp(prefix=PREFIX))
    package = lent / PACKAGE
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "implementations").symlink_to(Path(__file__).absolute().parents[1], target_is_directory=True)
    public = importlib.util.find_spec(f"{PACKAGE}.interface")
    if public is not None and public.origin is not None:
        (package / "interface.py").symlink_to(public.origin)
    return lent


def take_back(lent: Path) -> None:
    """Removes what `lend` made, links and not what they lead to. Either side may come first: the near one may have been killed."""
    if lent.name.startswith(PREFIX):
        shutil.rmtree(lent, ignore_errors=True)
