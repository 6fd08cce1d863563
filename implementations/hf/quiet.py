"""transformers without progress bars and advice, for the length of a block."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import Iterator

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Errors still show. Verbosity, progress bars and warning filters are put back at the end."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
