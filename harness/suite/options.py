"""The suite's pytest options. A project whose conftest has an option of the same name keeps its own; ours then stays away."""

from __future__ import annotations

from typing import Any

import pytest

DEVICES_HELP = "cpu | cuda | cuda:N | ... : where backends load their models (default: cpu)"
OPTIONS: dict[str, dict[str, Any]] = {
    "--backend": dict(action="append", metavar="NAME", help="NAME[:VARIANT] or MODULE:FACTORY to judge (repeatable; default: all known)"),
    "--checkpoint": dict(action="append", metavar="DIR", help="judge on this HF directory instead of the golden models (repeatable)"),
    "--golden": dict(metavar="DIR", help="golden data (default: the packaged ones)"),
    "--dtype": dict(action="append", metavar="NAME", help="float32 | bfloat16 | float16 (repeatable; default: float32 and bfloat16)"),
    "--device": dict(default="cpu", metavar="NAME", help=DEVICES_HELP),
    "--python": dict(action="append", metavar="NAME=PATH", help="run this backend in a worker, under the interpreter PATH (repeatable)"),
    "--worker-timeout": dict(type=float, metavar="SECONDS", help="longest call of a backend in a worker (default: 600)"),
    "--require": dict(choices=["device"], help="fail what did not run on a device: emulated, on a CPU or unavailable"),
    "--expect": dict(action="append", metavar="FILE", help="TOML file of known failures (repeatable; docs/third-parties.md)"),
    "--profile": dict(metavar="NAME", help="judge exactly what this profile lists: model-1.0"),
    "--budget": dict(metavar="TIME", help="start nothing after this time: 45m, 1h30m, 90s; the most telling checks come first"),
    "--benchmark": dict(action="store_true", help="run moe-harness's benchmarks (and only them) instead of its checks"),
    "--wide": dict(action="store_true", help="the wide set of benchmarks: more sizes, all skews, single layers of true shape (GBs)"),
    "--routing-trace": dict(metavar="FILE", help="a real run's expert loads or ids, to be replayed (docs/benchmarks.md)"),
    "--pair": dict(nargs=2, metavar=("A", "B"), help="with --benchmark: time two backends in turn and judge B against A"),
    "--pair-delta": dict(type=float, metavar="SHARE", help="change that counts as none (default: 0.02)"),
    "--pair-confidence": dict(type=float, metavar="P", help="of the interval of the ratio, two-sided (default: 0.95)"),
    "--pair-budget": dict(type=float, metavar="SECONDS", help="of a series of blocks (default: 20 blocks of 4 to 48 rounds)"),
    "--run-dir": dict(metavar="DIR", help="where records go (default: reports/runs/<id>)"),
    "--thorough": dict(action="store_true", help="twenty times the property-based examples, with fresh seeds (nightly)"),
}  # fmt: skip
CLASH = pytest.StashKey[str]()


def destination(option: str) -> str:
    return "moe_" + option.lstrip("-").replace("-", "_")


def add_options(config: pytest.Config, parser: pytest.Parser) -> None:
    """Adds all options, or none: names that are taken are noted in the stash under CLASH. Called after the initial conftests have
    loaded, so that they come first."""
    groups = [parser._anonymous, *parser._groups]
    used = {name for group in groups for known in group.options for name in known.names()}
    if taken := sorted(used & set(OPTIONS)):
        config.stash[CLASH] = ", ".join(taken)
        return
    for name, attributes in OPTIONS.items():
        parser.addoption(name, dest=destination(name), **attributes)


def option(config: pytest.Config, name: str) -> Any:
    """The value of one of our options; its default where another project's option of that name keeps ours away."""
    attributes = OPTIONS[f"--{name}"]
    default = False if attributes.get("action") == "store_true" else attributes.get("default")
    return getattr(config.option, destination(name), default)
