"""Names of files and folders made of names that a backend or a run chose."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256

_LONGEST = 60


def slugs(names: Iterable[str]) -> dict[str, str]:
    """Name -> lower-case letters, digits, dots and dashes; with a piece of the name's sha256 where that lost something or is not unique."""
    plain = {name: re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:_LONGEST] for name in names}
    taken = list(plain.values())
    return {name: slug if slug and taken.count(slug) == 1 else f"{slug}-{_digest(name)}".lstrip("-") for name, slug in plain.items()}


def _digest(name: str) -> str:
    return sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
