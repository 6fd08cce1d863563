"""The figures of a self-test: what `moe-harness selftest --write` puts under golden/, and every report shows beside its verdict.

Schema 1:

- `schema`, `version` (see version.py), `date` (UTC, ISO 8601), `mode` ("quick" | "long"), `seconds`, `machine` {cpu, cores, os, python,
  packages}
- `faults`: `killed`, `expressed` (faults of the catalogue); `crashed` [id] (that die of no judgement, only by crashing); `by_topic`
  {topic: {killed, expressed}}; `by_dtype` {dtype: {killed, asked}}; `survivors` [{fault, reason}]; `escapes` [{fault, clauses}] (named
  for a fault that survives them)
- `corpus`: `killed`, `expressed`, `total`: public bug reports; one is killed if all faults that express it are
- `honest`: `runs`, `alarms` (runs with at least one), `rate_below` (one-sided bound), `confidence`, `undecided` (runs with an inconclusive
  check), `verdicts` (of all runs), `kinds`, `clauses` [id], `left_out` [check], `alarmed` [{kind, seed, family, dtype, alarms}]
- `diagnosis` {dtype: {killed, from_arrays, named, alone, placed, rightly_none, misplaced [id], taken_for_known [id]}}: see diagnoses.py;
  empty where it was not measured (quick)
- `effects` [{dial, what, dtype, family, size, says}]: the smallest error seen in 95 % of seeds, the worst over families
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from moe_harness.mutants import entries
from moe_harness.mutants.corpus import coverage
from moe_harness.selftest import diagnoses
from moe_harness.selftest.alarms import CONFIDENCE, COSTLY, ROUNDING, Run, upper_bound
from moe_harness.selftest.diagnoses import Score
from moe_harness.selftest.effects import Effect
from moe_harness.selftest.kills import DTYPES, Fate

SHOWN, NAMED = 300, 20  # characters of a reason, alarms by name


def figures(fates: Sequence[Fate], runs: Sequence[Run], effects: Sequence[Effect], scores: Sequence[Score], costly: bool) -> dict[str, Any]:
    """What was found; who measured when is the caller's. `costly`: honest runs were asked those checks too."""
    killed = {fate.fault.id for fate in fates if fate.killers()}
    return {
        "faults": _faults(fates),
        "corpus": asdict(coverage(killed)),
        "honest": _honest(runs, costly),
        "diagnosis": diagnoses.figures(scores) if scores else {},
        "effects": [asdict(effect) for effect in worst(effects)],
    }


def _faults(fates: Sequence[Fate]) -> dict[str, Any]:
    topics, dead = _topics(), [fate for fate in fates if fate.killers()]
    asked, killed = (Counter(topics[fate.fault.id] for fate in some) for some in (fates, dead))
    return {
        "killed": len(dead),
        "expressed": len(fates),
        "crashed": [fate.fault.id for fate in fates if fate.by_crash_alone],
        "by_topic": {topic: {"killed": killed[topic], "expressed": count} for topic, count in sorted(asked.items())},
        "by_dtype": {dtype: _in(dtype, fates) for dtype in DTYPES},
        "survivors": [{"fault": fate.fault.id, "reason": fate.excuse[:SHOWN]} for fate in fates if not fate.killers()],
        "escapes": [{"fault": fate.fault.id, "clauses": fate.escaped} for fate in fates if fate.escaped],
    }


def _in(dtype: str, fates: Sequence[Fate]) -> dict[str, Any]:
    """Of the faults that are asked in a dtype: those that die there, and the ids of the others."""
    asked = [fate for fate in fates if any(of == dtype for _, of in fate.endings)]
    alive = [fate.fault.id for fate in asked if not fate.killers(dtype)]
    return {"killed": len(asked) - len(alive), "asked": len(asked), "survivors": alive}


def _topics() -> dict[str, str]:
    """Fault -> name of the catalogue's file that lists it."""
    modules = ((info.name, import_module(f"{entries.__name__}.{info.name}")) for info in iter_modules(entries.__path__))
    return {fault.id: name for name, module in modules for fault in getattr(module, "FAULTS", ())}


def _honest(runs: Sequence[Run], costly: bool) -> dict[str, Any]:
    alarmed = [run for run in runs if run.alarms]
    return {
        "runs": len(runs),
        "alarms": len(alarmed),
        "rate_below": upper_bound(len(alarmed), len(runs)),
        "confidence": CONFIDENCE,
        "undecided": sum(bool(run.undecided) for run in runs),
        "verdicts": sum(run.judged for run in runs),
        "kinds": len({run.kind for run in runs}),
        "clauses": list(ROUNDING),
        "left_out": [] if costly else list(COSTLY),
        "alarmed": [asdict(run) for run in alarmed[:NAMED]],
    }


def worst(effects: Sequence[Effect]) -> Iterator[Effect]:
    """Of each dial and dtype the family that sees least."""
    places = dict.fromkeys((effect.dial, effect.dtype) for effect in effects)
    for place in places:
        found = [effect for effect in effects if (effect.dial, effect.dtype) == place]
        yield max(found, key=lambda effect: float("inf") if effect.size is None else effect.size)
