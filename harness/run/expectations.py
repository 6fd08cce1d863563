"""Known failures, from a TOML file in the adopter's repository (`--expect FILE`, repeatable):

    [[expect]]
    check = "CACHE-03"              # the clause
    backend = "mybackend*"          # fnmatch patterns, each optional: backend, case, dtype
    signature = "positions .* off"  # regular expression that must be found in the failure's reason
    reason = "chunked prefill restarts positions"
    url = "https://github.com/..."
    expires = 2026-12-31            # the last day on which it excuses

A failure that its entry describes is KNOWN, with exit code 0. What the file no longer describes is a new failure, so that the file cannot
rot: a changed signature, an expired entry, an entry for a check that passes. The last is a FAIL of that check although the check itself
passed: left alone, the entry would excuse the next break of something that works today, and nobody reads warnings of a green run.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from moe_harness.records.status import Status

EXCUSABLE = (Status.FAIL, Status.CRASHED, Status.TIMEOUT)
_REQUIRED = ("check", "signature", "reason", "url", "expires")
_PATTERNS = ("backend", "case", "dtype")


class ExpectationError(ValueError):
    """A file that cannot be used. Names the file, the entry and the key."""


@dataclass(frozen=True)
class Expectation:
    """One entry; `source`: its file and number."""

    source: str
    check: str
    signature: re.Pattern[str]
    reason: str
    url: str
    expires: date
    backend: str = "*"
    case: str = "*"
    dtype: str = "*"

    def covers(self, identity: Mapping[str, Any]) -> bool:
        """Whether the entry is about this check, whatever its outcome."""
        return identity["check"] == self.check and all(fnmatchcase(identity[name], getattr(self, name)) for name in _PATTERNS)

    def to_record(self) -> dict[str, Any]:
        return {"source": self.source, "reason": self.reason, "url": self.url, "expires": self.expires.isoformat()}


@dataclass(frozen=True)
class Outcome:
    """A check's status and reason once the entries have been heard; `expected` is what made it KNOWN."""

    status: str
    reason: str
    expected: dict[str, Any] | None = None


def load(paths: Iterable[Path], clauses: Collection[str]) -> list[Expectation]:
    """The entries of all files. `clauses`: the ids that exist. Raises ExpectationError."""
    return [entry for path in paths for entry in _load(Path(path), clauses)]


def _load(path: Path, clauses: Collection[str]) -> list[Expectation]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExpectationError(f"{path}: {error}") from error
    entries = content.pop("expect", [])
    if content or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ExpectationError(f"{path}: only [[expect]] entries belong here" + (f", not {sorted(content)[0]!r}" if content else ""))
    return [_entry(f"{path}, entry {number}", entry, clauses) for number, entry in enumerate(entries, start=1)]


def _entry(source: str, entry: dict[str, Any], clauses: Collection[str]) -> Expectation:
    if unknown := sorted(entry.keys() - {*_REQUIRED, *_PATTERNS}):
        raise ExpectationError(f"{source}: unknown key {unknown[0]!r}")
    for key in _REQUIRED:
        if key not in entry:
            raise ExpectationError(f"{source}: no {key!r}")
    for key, value in entry.items():
        if problem := _problem(key, value, clauses):
            raise ExpectationError(f"{source}: {key} = {_shown(value)}: {problem}")
    return Expectation(source, **entry | {"signature": re.compile(entry["signature"])})


def _shown(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else repr(value)


def _problem(key: str, value: Any, clauses: Collection[str]) -> str | None:
    if key == "expires":
        return None if type(value) is date else "not a date (2026-12-31, without quotes and without a time)"
    if not isinstance(value, str) or not value.strip():
        return "not a text"
    if key == "check" and value not in clauses:
        return "no such clause; `moe-harness run` and docs/spec.md have the ids"
    if key == "url" and not re.match(r"https?://\S+$", value):
        return "not a http(s) address"
    return _bad_signature(value) if key == "signature" else None


def _bad_signature(value: str) -> str | None:
    try:
        found = re.compile(value)
    except re.error as error:
        return f"not a regular expression: {error}"
    return "matches every failure; say what this one looks like" if found.search("") else None


def judge(entries: Sequence[Expectation], identity: Mapping[str, Any], status: str, reason: str, today: date | None = None) -> Outcome:
    """What the entries make of a check that ended with `status` and `reason`. A gap or too little evidence stays what it is."""
    covering = [entry for entry in entries if entry.covers(identity)]
    if not covering or status not in (*EXCUSABLE, Status.PASS):
        return Outcome(status, reason)
    if status == Status.PASS:
        return Outcome(Status.FAIL, f"unexpected pass: the check passes, so remove or narrow {_sources(covering)}")
    matching = [entry for entry in covering if entry.signature.search(reason)]
    valid = [entry for entry in matching if (today or _today()) <= entry.expires]
    if valid:
        return Outcome(Status.KNOWN, f"{valid[0].reason} ({valid[0].url}, until {valid[0].expires}): {reason}", valid[0].to_record())
    if matching:
        return Outcome(status, f"expired on {max(entry.expires for entry in matching)}: {_sources(matching)}: {reason}")
    signatures = " or ".join(repr(entry.signature.pattern) for entry in covering)
    return Outcome(status, f"changed signature: {_sources(covering)} expects {signatures}, but: {reason}")


def _today() -> date:
    return datetime.now(UTC).date()


def _sources(entries: Sequence[Expectation]) -> str:
    return " and ".join(entry.source for entry in entries)


def fates(
    entries: Sequence[Expectation], identities: Sequence[Mapping[str, Any]], backends: Collection[str], narrowed: bool
) -> list[dict[str, Any]]:
    """What a run's selection makes of each entry: `covers` some of its checks; `stale`: none, though it was the whole suite with a backend
    that the entry is about; `not asked`: none, of a selection or of other backends."""
    return [_fate(entry, identities, backends, narrowed) for entry in entries]


def _fate(entry: Expectation, identities: Sequence[Mapping[str, Any]], backends: Collection[str], narrowed: bool) -> dict[str, Any]:
    place = {"check": entry.check, **{name: getattr(entry, name) for name in _PATTERNS}}
    if any(entry.covers(identity) for identity in identities):
        fate = "covers"
    elif narrowed or not any(fnmatchcase(backend, entry.backend) for backend in backends):
        fate = "not asked"
    else:
        fate = "stale"
    return entry.to_record() | place | {"fate": fate}
