"""RunSpec as pytest's options. A project whose conftest has an option of the same name keeps its own; ours then stay away."""

from __future__ import annotations

import pytest

from moe_harness.suite.run_spec import RunSpec, options

CLASH = pytest.StashKey[str]()
_SPEC = pytest.StashKey[RunSpec]()


def add_options(config: pytest.Config, parser: pytest.Parser) -> None:
    """Add all options, or none: names that are taken are noted in the stash under CLASH. Called after the initial conftests have loaded, so
    that they come first."""
    groups = [parser._anonymous, *parser._groups]
    used = {name for group in groups for known in group.options for name in known.names()}
    ours = [each for each in options() if each.option]
    if taken := sorted(used & {each.option for each in ours}):
        config.stash[CLASH] = ", ".join(taken)
        return
    for each in ours:
        parser.addoption(each.option, **each.attributes())


def spec_of(config: pytest.Config) -> RunSpec:
    """The options of a pytest session; defaults where another project's options keep ours away."""
    if _SPEC not in config.stash:
        own = [each for each in options() if each.option]
        given = {each.name: getattr(config.option, each.destination, each.default) for each in own}
        config.stash[_SPEC] = RunSpec(**{each.name: each.typed(given[each.name]) for each in own})
    return config.stash[_SPEC]
