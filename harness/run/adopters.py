"""What an adopter brings to a run: known failures (`--expect`) and the profile to conform to (`--profile`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from moe_harness.checks import clauses
from moe_harness.run import expectations
from moe_harness.suite import profiles
from moe_harness.suite.options import spec_of

HERE = Path(__file__).parents[1]
_EXPECTED: pytest.StashKey[list[expectations.Expectation]] = pytest.StashKey()
_OWED: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()
_SELECTIONS = ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf")  # pytest's own, as they are called in config.option


def validate(config: pytest.Config) -> None:
    """UsageError for a file or profile that cannot be used."""
    try:
        expected(config)
        asked = profile(config)
    except (expectations.ExpectationError, profiles.ProfileError) as error:
        raise pytest.UsageError(str(error)) from error
    if asked and asked.kind != "model":
        raise pytest.UsageError(f"--profile {asked.name}: lists cases of `moe-harness kernel`, not clauses")
    if asked and (spec_of(config).dtype or spec_of(config).bench):
        raise pytest.UsageError(f"--profile {asked.name}: brings its own dtypes and goes with neither --dtype nor --benchmark")


def expected(config: pytest.Config) -> list[expectations.Expectation]:
    """The entries of every --expect file, read once. Raises ExpectationError."""
    if _EXPECTED not in config.stash:
        paths = spec_of(config).expect
        config.stash[_EXPECTED] = expectations.load(paths, set(clauses())) if paths else []
    return config.stash[_EXPECTED]


def profile(config: pytest.Config) -> profiles.Profile | None:
    """The profile asked for. Raises ProfileError for an unknown one."""
    name = spec_of(config).profile
    return profiles.load(name) if name else None


def judge(config: pytest.Config, identity: Mapping[str, Any], status: str, reason: str) -> expectations.Outcome:
    """A check's outcome once the known failures have been heard. Benchmarks have none."""
    return expectations.judge(expected(config), identity, status, reason)


def excuse(report: pytest.TestReport, reason: str) -> None:
    """A known failure is what pytest calls xfailed."""
    report.outcome = "skipped"
    report.wasxfail = reason  # pytest's own way to mark one


def owe(config: pytest.Config, identities: Sequence[dict[str, Any]]) -> None:
    """Notes what the profile asks for, before -k and its like narrow it."""
    config.stash[_OWED] = list(identities)


def records(config: pytest.Config, selected: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """(type, fields) of the records that `--expect` and `--profile` add to a run's beginning."""
    found: list[tuple[str, dict[str, Any]]] = []
    if entries := expected(config):
        backends = {identity["backend"] for identity in selected}
        found.append(("expectations", {"entries": expectations.fates(entries, selected, backends, narrowed(config))}))
    if asked := profile(config):
        found.append(("profile", asked.to_record() | {"omitted": _omitted(config, selected)}))
    return found


def _omitted(config: pytest.Config, selected: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the profile asks of a backend and case that are judged, but the user's own selection left out."""
    judged, nodes = {(i["backend"], i["case"]) for i in selected}, {i["node"] for i in selected}
    return [i for i in config.stash.get(_OWED, []) if (i["backend"], i["case"]) in judged and i["node"] not in nodes]


def narrowed(config: pytest.Config) -> bool:
    """Whether the selection is less than the whole suite of the backends asked for."""
    whole = any(str(argument) == "moe_harness.checks" or Path(argument).resolve() == HERE / "checks" for argument in config.args)
    chosen = any(getattr(config.option, name, None) for name in _SELECTIONS)
    return chosen or not whole or spec_of(config).narrows


def stale(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences about the stale entries in a run's records."""
    entries = [entry for record in found if record["type"] == "expectations" for entry in record["entries"]]
    sources = dict.fromkeys(f"{entry['source']} ({entry['check']})" for entry in entries if entry["fate"] == "stale")
    return [f"stale entry: {source} is about no check of this run; remove it" for source in sources]
