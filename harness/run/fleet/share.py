"""What one machine is given at a time: the checks of one backend on one case in one dtype, which share a loaded model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Identity = dict[str, Any]  # of a planned check, as outcome.identify gives it


@dataclass(frozen=True)
class Share:
    """`items`: identities, in the order in which they are asked."""

    backend: str
    case: str
    dtype: str
    items: tuple[Identity, ...]

    @property
    def name(self) -> str:
        return f"{self.backend} on {self.case}, {self.dtype}"

    @property
    def nodes(self) -> list[str]:
        return [item["node"] for item in self.items]


def shares(items: Iterable[Identity]) -> list[Share]:
    """One per backend, case and dtype; those with the most checks first, so that none is left running alone at the end."""
    grouped: dict[tuple[str, str, str], list[Identity]] = {}
    for item in items:
        grouped.setdefault((item["backend"], item["case"], item["dtype"]), []).append(item)
    found = [Share(*key, tuple(own)) for key, own in grouped.items()]
    return sorted(found, key=lambda share: -len(share.items))
