"""The directory through which a worker's interpreter gets to see our package and nothing else of ours."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

PACKAGE = "implementations"


def lend() -> Path:
    """A new directory that holds one link, to our package. The package's own parent would bring along all that is installed beside it."""
    lent = Path(tempfile.mkdtemp(prefix="moe-harness-worker-"))
    (lent / PACKAGE).symlink_to(Path(__file__).absolute().parents[1], target_is_directory=True)
    return lent


def take_back(lent: Path) -> None:
    """Removes what `lend` made, and can remove nothing else. Either side may come first: the near one may have been killed."""
    with suppress(OSError):
        os.unlink(lent / PACKAGE)
        os.rmdir(lent)
