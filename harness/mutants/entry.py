"""One line of the catalogue: a fault with the checks it must die by, or an honest variant that no check may fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from moe_harness.emulator.inputs import FAMILIES
from moe_harness.emulator.seams import Seams, changed
from moe_harness.implementations.interface import DTYPES, ModelConfig

GITHUB = "https://github.com"
Change = Callable[[Seams], Seams]
Draw = Callable[[int], Change]
Needs = Callable[[ModelConfig], ModelConfig]


def any_config(config: ModelConfig) -> ModelConfig:
    return config


@dataclass(frozen=True)
class Fault:
    """`what`: the mistake and how it shows. `url`: the public bug it re-creates, None for a classic mistake. `seams`: honest seams to
    faulty ones, called once per backend. `dies_by`: ids of checks, each of which must fail on it where it shows: in `dtypes`, in configs
    of `families` with `needs(config) == config` (else `needs` gives the nearest such config), on inputs as `trigger` says (empty: any).
    `survives`: why no check kills it where `dies_by` and `dtypes` do not say that one does."""

    id: str
    what: str
    url: str | None
    seams: Change
    dies_by: tuple[str, ...]
    dtypes: tuple[str, ...] = DTYPES
    families: tuple[str, ...] = ("mixtral", "qwen3_moe")
    needs: Needs = any_config
    trigger: str = ""
    survives: str = ""

    def shows_in(self, config: ModelConfig) -> bool:
        return config.family in self.families and self.needs(config) == config


@dataclass(frozen=True)
class Seeded:
    """A change that draws from a seed what engineers choose freely: orders of summation, numbers and places of splits, sizes of blocks.
    Called without a seed, it draws from seed 0. The same seed gives the same arithmetic, bit by bit."""

    draw: Draw

    def __call__(self, seams: Seams, seed: int = 0) -> Seams:
        return self.draw(seed)(seams)


@dataclass(frozen=True)
class Honest:
    """A variant that differs by rounding at most, or not at all. `url`: where somebody took it for a bug, or does it this way. `also`:
    checks about what it changes, besides those that every variant is asked; `families`: where it changes something. `bypasses`: seams
    that no longer have a say under it, so that a fault in one of them would not show."""

    id: str
    what: str
    url: str | None
    seams: Change
    also: tuple[str, ...] = ()
    families: tuple[str, ...] = FAMILIES
    bypasses: tuple[str, ...] = ()

    @property
    def deterministic(self) -> bool:
        """The seed changes nothing."""
        return not isinstance(self.seams, Seeded)

    def at(self, seams: Seams, seed: int) -> Seams:
        """`seams` under this variant's arithmetic of that seed."""
        return self.seams(seams, seed) if isinstance(self.seams, Seeded) else self.seams(seams)


def change(**functions: Any) -> Change:
    """Replaces the named seams."""
    return lambda seams: changed(seams, **functions)


def together(*changes: Change) -> Change:
    """One change after the other."""
    return lambda seams: reduce(lambda changing, change: change(changing), changes, seams)


def setting(**changes: Any) -> Needs:
    """The config with these fields."""
    return lambda config: replace(config, **changes)


def routing(**changes: Any) -> Needs:
    """The config with these RoutingSpec fields; `top_k="E"`: every expert."""

    def apply(config: ModelConfig) -> ModelConfig:
        values: dict[str, Any] = {name: config.routing.num_experts if value == "E" else value for name, value in changes.items()}
        return replace(config, routing=replace(config.routing, **values))

    return apply


def where(holds: Callable[[ModelConfig], bool], otherwise: Needs) -> Needs:
    """The config itself where `holds`, else `otherwise` of it."""
    return lambda config: config if holds(config) else otherwise(config)
