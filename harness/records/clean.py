"""Texts from records, made fit for HTML, XML and figures: backends and machines choose them, not we."""

from __future__ import annotations

import re
from typing import Any

# What XML 1.0 (2.2) forbids, lone surrogates included, and controls that turn the direction of text and so make one name look like another.
_UNFIT = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")


def clean(value: Any) -> Any:
    """`value` with every unfit character of its texts, keys included, replaced by U+FFFD; lists and dictionaries all the way down."""
    if isinstance(value, str):
        return _UNFIT.sub("\ufffd", value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    return value
