"""Profiles: frozen lists of what must pass before one may say "conforms to model-1.0". One TOML file each:

kind = "model"            # model: clauses of docs/spec.md, judged by `moe-harness run`; kernel: cases of `moe-harness kernel`
released = true           # from then on the file never changes: a longer list is a new version
[required]
ROUTE-01 = ["float32", "bfloat16"]   # clause or case = the dtypes in which it must pass
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any

from moe_harness.records.status import Status

KINDS = ("model", "kernel")
NAMED = 8  # gaps that a sentence names
_KEYS = {"kind", "released", "required"}


class ProfileError(ValueError):
    """No such profile, or a file that is none."""


@dataclass(frozen=True)
class Profile:
    """`required`: clause id or kernel case -> dtypes. `sha256`: of the file, so that a report says which list it was."""

    name: str
    kind: str
    released: bool
    sha256: str
    required: dict[str, tuple[str, ...]]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Every dtype in which something must pass, in the order of the file."""
        return tuple(dict.fromkeys(dtype for dtypes in self.required.values() for dtype in dtypes))

    def asks(self, check: str, dtype: str) -> bool:
        return dtype in self.required.get(check, ())

    def gaps(self, statuses: Mapping[str, str], dtype: str) -> dict[str, str]:
        """Of what the profile asks in `dtype`, everything that is not PASS: name -> status, "NOT RUN" where it has none."""
        asked = {name: statuses.get(name, Status.NOT_RUN) for name in self.required if self.asks(name, dtype)}
        return {name: status for name, status in asked.items() if status != Status.PASS}

    def sentence(self, subject: str, gaps: Mapping[str, str]) -> str:
        """Whether a subject conforms, and if not, what is missing."""
        name = self.name if self.released else f"{self.name} (draft)"
        missing = ", ".join(f"{check} {status}" for check, status in list(gaps.items())[:NAMED])
        more = f", and {len(gaps) - NAMED} more" if len(gaps) > NAMED else ""
        return f"{name}: {subject} does not conform: {missing}{more}" if gaps else f"{name}: {subject} conforms"

    def to_record(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "released": self.released, "sha256": self.sha256, "required": self.required}


def names() -> list[str]:
    """All profiles, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in files(__name__).iterdir() if file.name.endswith(".toml"))


def load(name: str) -> Profile:
    """Raises ProfileError for a name that is not one of `names()`."""
    if name not in names():
        raise ProfileError(f"no profile {name!r}; known: {', '.join(names())}")
    return parse(name, (files(__name__) / f"{name}.toml").read_bytes())


def parse(name: str, content: bytes) -> Profile:
    """A profile from its file's bytes. Raises ProfileError."""
    try:
        raw = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(f"{name}: {error}") from error
    if raw.keys() != _KEYS or raw["kind"] not in KINDS or not isinstance(raw["released"], bool) or not isinstance(raw["required"], dict):
        raise ProfileError(f"{name}: needs kind ({' | '.join(KINDS)}), released (true | false), [required], and nothing else")
    for check, dtypes in raw["required"].items():
        if not isinstance(dtypes, list) or not dtypes or not all(isinstance(dtype, str) for dtype in dtypes):
            raise ProfileError(f"{name}: {check}: expected a list of dtypes")
    required = {check: tuple(dtypes) for check, dtypes in raw["required"].items()}
    return Profile(name, raw["kind"], raw["released"], sha256(content).hexdigest(), required)
