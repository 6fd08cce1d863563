"""A pytest plug-in that writes down what was collected, for plan.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from moe_harness.run.outcome import identify

VARIABLE = "MOE_HARNESS_PLAN"  # the file


def pytest_collection_finish(session: pytest.Session) -> None:
    Path(os.environ[VARIABLE]).write_text(json.dumps([identify(item) for item in session.items]), "utf-8")
