"""Records against their JSON Schemas (draft 2020-12): `schemas/<type>.json`, of version 1, which every record names as `schema`.

The schemas say what fields mean to other programs; a field that they do not name is allowed, since records grow. Validation needs the
`jsonschema` package, which is the extra `schema`: nothing else does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from moe_harness.records import finding
from moe_harness.records.finding import Finding

COMMON = "common"
MISSING = "records were not held against their schemas: pip install moe-harness[schema]"


def types() -> list[str]:
    """The record types that have a schema."""
    return sorted(file.name.removesuffix(".json") for file in _folder().iterdir() if file.name not in (f"{COMMON}.json", "__init__.py"))


def schema(kind: str) -> dict[str, Any]:
    """The schema of a record type. Raises ValueError for an unknown one."""
    if kind not in (*types(), COMMON):
        raise ValueError(f"no schema of {kind!r}; known: {', '.join(types())}")
    return dict(json.loads((_folder() / f"{kind}.json").read_text("utf-8")))


def available() -> bool:
    """Whether `jsonschema` is there."""
    return find_spec("jsonschema") is not None


def problems(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(field, what is wrong) of everything in which a record is not as its schema says; `truncated` is the reader's own and has none."""
    kind = str(record.get("type"))
    if kind == "truncated":
        return []
    if kind not in types():
        return [("type", f"{kind!r} has no schema")]
    errors = sorted(_validator(kind).iter_errors(dict(record)), key=lambda error: [str(part) for part in error.absolute_path])
    return [(".".join(str(part) for part in error.absolute_path) or "record", _short(error.message)) for error in errors]


def sentences(record: Mapping[str, Any] | None) -> list[str]:
    """The problems in words; a line that is no record is one."""
    if record is None:
        return ["not a JSON object"]
    return [f"{record.get('type')}: {field}: {message}" for field, message in problems(record)]


def as_finding(record: Mapping[str, Any], problem: tuple[str, str]) -> Finding:
    field, message = problem
    return finding.of(record, field, message, f"as its schema (version {record.get('schema')}) says")


def _folder() -> Any:
    return files("moe_harness.records") / "schemas"


@cache
def _validator(kind: str) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    shared = Resource.from_contents(schema(COMMON))
    return Draft202012Validator(schema(kind), registry=Registry().with_resource(shared.id() or "", shared))


def _short(message: str) -> str:
    return message if len(message) <= 200 else message[:199] + "…"
