"""The numpy subject under a name: an entry of the catalogue, or honest but for a dial that is turned."""

from __future__ import annotations

from moe_harness.emulator.honest import HONEST
from moe_harness.emulator.subject import SubjectBackend
from moe_harness.mutants import catalogue
from moe_harness.selftest.dials import DIALS


def backend(name: str) -> SubjectBackend:
    """`name`: an id of the catalogue, "" for the honest subject, "DIAL=VALUE". Raises ValueError or KeyError for another one."""
    dial, turned, value = name.partition("=")
    if not turned:
        return catalogue.backend(name or None)
    return SubjectBackend(f"{catalogue.SPECIFICATION}:{name}", DIALS[dial].seams(HONEST, float(value)))
