"""The conformance suite: one check = one clause of docs/spec.md. Run with `pytest --pyargs moe_harness.checks --backend NAME`."""

from __future__ import annotations

import ast
from pathlib import Path


def clauses() -> list[str]:
    """Ids of all clauses that have a check, sorted. Read from the source: nothing is imported, and an id used twice shows twice."""
    found: list[str] = []
    for module in sorted(Path(__file__).parent.glob("test_*.py")):
        calls = (d for f in ast.parse(module.read_text("utf-8")).body if isinstance(f, ast.FunctionDef) for d in f.decorator_list)
        found += [str(ast.literal_eval(c.args[0])) for c in calls if isinstance(c, ast.Call) and getattr(c.func, "id", "") == "clause"]
    return sorted(found)
