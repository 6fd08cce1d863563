"""From samples to the table: limits, and what they say of a kind or a case that they have not seen."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from harness.cases import Case, golden_cases
from harness.faults.catalogue import SEEDED_KINDS, honest
from harness.faults.declared import FAMILIES
from harness.floors.profile import profile
from harness.floors.sample import Draw, Sample, many_tokens, samples
from harness.floors.table import COMPARISONS, CONFIDENCE, FALSE_ALARMS, Floor, Table
from harness.floors.tolerance import spread
from harness.synthetic import FLAT, PEAKED, small, synthesize
from implementations.interface import DTYPES

SEEDS, LONG_SEEDS = 10, 3
HELDOUT = "heldout.txt"
QUANTILES = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class Calibration:
    """What one process works through: all kinds and seeds on one dtype and one share of the kinds."""

    golden: Path
    synthetic: Path
    dtype: str
    kinds: tuple[str, ...]
    seeds: int


def calibrate(golden: Path, seeds: int = SEEDS, kinds: Sequence[str] | None = None, dtypes: Sequence[str] = DTYPES) -> Table:
    """Runs every kind under every seed, one process a core. Minutes."""
    kinds = [kind.id for kind in SEEDED_KINDS] if kinds is None else kinds
    with TemporaryDirectory() as scratch:
        synthetic = Path(scratch)
        for case, config, scale in _synthetic_models():
            synthesize(config, synthetic / case, 0, scale)
        work = [Calibration(golden, synthetic, dtype, (kind,), seeds) for dtype in dtypes for kind in kinds]
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
            found = [sample for part in pool.map(_sampled, work) for sample in part]
        profiles = _profiles([*golden_cases(golden), *_synthetic_cases(synthetic)], dtypes)
    return tabulate(found, profiles, {"kinds": sorted(kinds), "seeds": seeds})


def calibration_text(golden: Path) -> np.ndarray:
    """The first half of the held-out text. Evaluation takes the second."""
    text = np.frombuffer((golden / HELDOUT).read_bytes(), np.uint8).astype(np.int64)
    return text[: len(text) // 2]


def _synthetic_models() -> Iterator[tuple[str, Any, float]]:
    """Random weights, of two layers, with a flat and a peaked router: what trained ones do not show."""
    for family in FAMILIES:
        for name, scale in (("flat", FLAT), ("peaked", PEAKED)):
            yield f"{family}-{name}", small(family, 16, 4, num_hidden_layers=2, moe_layers=(0, 1), max_position_embeddings=512), scale


def _synthetic_cases(root: Path) -> list[Case]:
    return [Case(name, root / name) for name, _, _ in _synthetic_models()]


def _sampled(work: Calibration) -> list[Sample]:
    text = calibration_text(work.golden)
    trained, synthetic = golden_cases(work.golden), _synthetic_cases(work.synthetic)
    random_text = np.random.default_rng(0).integers(0, 256, len(text))
    found: list[Sample] = []
    for kind in work.kinds:
        for seed in range(work.seeds):
            draws = partial(Draw, dtype=work.dtype, kind=kind, seed=seed, seams=honest(kind, seed))
            for case in trained:
                found += samples(draws(case), text, long=seed < LONG_SEEDS)
            for case in synthetic[seed % 2 :: 2]:  # flat and peaked routers in turn
                found += samples(draws(case), random_text, long=False)
                found += many_tokens(draws(case)) if seed < LONG_SEEDS else ()
    return found


def _profiles(cases: Iterable[Case], dtypes: Sequence[str]) -> dict[tuple[str, str], list[tuple[str, float]]]:
    """(case, log error) by dtype and site."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for case in cases:
        for dtype in dtypes:
            seen = profile(case, dtype)
            for site, values in (("block", seen.block_L), ("logits", [seen.logits]), ("router", [seen.router]), ("kl", [seen.kl])):
                found[dtype, site] += [(case.name, float(np.log(value))) for value in values]
    return found


def tabulate(found: list[Sample], profiles: dict[tuple[str, str], list[tuple[str, float]]], facts: dict[str, Any]) -> Table:
    grouped: dict[tuple[str, str, int], list[Sample]] = defaultdict(list)
    for sample in found:
        grouped[sample.dtype, sample.metric, sample.tokens].append(sample)
    floors = {key: _floor(group) for key, group in grouped.items()}
    left_out = {source: _left_out(grouped, source) for source in ("kind", "case")}
    typical = {key: spread(np.array([v for _, v in rows]), [], [name for name, _ in rows]) for key, rows in profiles.items()}
    stated = {"false_alarms_per_run": FALSE_ALARMS, "comparisons": COMPARISONS, "confidence": CONFIDENCE}
    return Table(floors, typical, facts | stated | {"samples": len(found), "left_out": left_out})


def _floor(group: Sequence[Sample]) -> Floor:
    values = np.array([sample.log_ratio for sample in group])
    seen = spread(values, [sample.kind for sample in group], [sample.case for sample in group])
    return Floor(seen, len(group), tuple(np.quantile(values, QUANTILES).tolist()))


def _left_out(grouped: dict[tuple[str, str, int], list[Sample]], source: str) -> dict[str, Any]:
    """Every kind (or case) against the limits of all others: how many of its samples exceed them, and the worst of all in units of its
    limit."""
    exceeding, asked, worst = 0, 0, ("", "", -np.inf)
    for key, group in grouped.items():
        for name in sorted({getattr(sample, source) for sample in group}):
            others = [sample for sample in group if getattr(sample, source) != name]
            if len({sample.kind for sample in others}) < 2:
                continue
            over = np.array([s.log_ratio for s in group if getattr(s, source) == name]) - _floor(others).limit
            exceeding, asked = exceeding + int((over > 0).sum()), asked + len(over)
            worst = max(worst, (name, "/".join(map(str, key)), float(over.max())), key=lambda found: found[2])
    return {"exceeding": exceeding, "samples": asked, "worst": worst[0], "at": worst[1], "of_its_limit": round(float(np.exp(worst[2])), 3)}
