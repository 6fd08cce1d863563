"""`@clause(id, title)` ties a check to its clause in docs/spec.md."""

from __future__ import annotations

import pytest


def clause(identity: str, title: str, *, dtypes: tuple[str, ...] = (), golden: bool = False) -> pytest.MarkDecorator:
    """`dtypes`: the only dtypes in which the clause is judged (default: those of the run). `golden`: needs HF's outputs, so it is not asked
    of a user's own checkpoint."""
    return pytest.mark.clause(identity, title, dtypes=dtypes, golden=golden)
