"""A seal on a run's files: what they were when the run ended.

`seal.json` in the run's directory: {schema, shards {name: {sha256, lines, chain}}, files {name: sha256}, digest}. `lines`: the first 16
digits of every line's sha256, so that a changed, added or deleted record is named; `chain`: of the last line, sha256(chain of the line
before + the line's sha256); `files`: capsules and what else lies there; `digest`: over all of it.

Who can rewrite records can rewrite the seal. What a run prints of it (`seal: ...`, kept by the CI's log) cannot be rewritten with them:
hand that to `report --verify --seal`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from hashlib import sha256
from pathlib import Path
from typing import Any

from moe_harness.records.lines import shards
from moe_harness.records.record import RecordError
from moe_harness.records.shard import Shard
from moe_harness.records.whole import replace

FILE, SCHEMA = "seal.json", 1
SHORT = 16


def seal(directory: Path) -> str:
    """Writes the seal of a run as it stands there and returns its digest. One that was there is replaced: a run may have several parts."""
    found = compute(directory)
    replace(directory / FILE, json.dumps(found, indent=1, sort_keys=True) + "\n")
    return str(found["digest"])


def read(directory: Path) -> dict[str, Any] | None:
    """A run's seal, None where it has none. Raises RecordError for a file that is none."""
    path = directory / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RecordError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise RecordError(f"{path}: not a seal of schema {SCHEMA}")
    return found


def compute(directory: Path) -> dict[str, Any]:
    """The seal of what stands there now."""
    found = shards(directory)
    sealed, records = {shard.name: _shard(shard) for shard in found}, {shard.path for shard in found}
    others = (path for path in sorted(directory.rglob("*")) if path.is_file() and path not in records and not path.name.startswith("."))
    files = {path.relative_to(directory).as_posix(): _sha(path.read_bytes()) for path in others if path.name != FILE}
    body = {"schema": SCHEMA, "shards": sealed, "files": files}
    return body | {"digest": digest(body)}


def digest(body: Mapping[str, Any]) -> str:
    """Over everything but itself."""
    return _sha(json.dumps({name: value for name, value in body.items() if name != "digest"}, sort_keys=True).encode())


def changed_lines(sealed: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """(what, line when sealed, line now) of every line that was changed, deleted or added; 0 where there is none."""
    matcher = SequenceMatcher(None, sealed["lines"], now["lines"], autojunk=False)
    for _, a, b, c, d in (code for code in matcher.get_opcodes() if code[0] != "equal"):
        both = min(b - a, d - c)
        yield from (("changed", a + i + 1, c + i + 1) for i in range(both))
        yield from (("deleted", line + 1, 0) for line in range(a + both, b))
        yield from (("added", 0, line + 1) for line in range(c + both, d))


def _shard(shard: Shard) -> dict[str, Any]:
    content = shard.content()
    digests = [_sha(line) for line in content.splitlines()]
    chain = ""
    for each in digests:
        chain = _sha((chain + each).encode())
    return {"sha256": _sha(content), "lines": [each[:SHORT] for each in digests], "chain": chain}


def _sha(content: bytes) -> str:
    return sha256(content).hexdigest()
