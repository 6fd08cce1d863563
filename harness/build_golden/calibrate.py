"""From samples to the table: limits, and what they say of a kind or a case that they have not seen."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from moe_harness.build_golden.samples import WINDOW, Draw, Sample, many_tokens, samples
from moe_harness.cases.cases import HELDOUT, Case, golden_cases
from moe_harness.cases.synthetic import FLAT, PEAKED, small, synthesize
from moe_harness.emulator.inputs import FAMILIES
from moe_harness.implementations.interface import DTYPES
from moe_harness.implementations.worker.bond import end_with_parent
from moe_harness.mutants.catalogue import SEEDED_KINDS, honest
from moe_harness.processes.threads import one_thread_each
from moe_harness.stats.tolerance import spread
from moe_harness.suite.bounds.table import COMPARISONS, CONFIDENCE, FALSE_ALARMS, Floor, Table

SEEDS, MANY_SEEDS = 10, 4  # draws of each kind; of these on many tokens, which take long
QUANTILES = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class Share:
    """What one process works through at a time: all kinds on one case in one dtype, on the inputs of one seed."""

    case: Case
    dtype: str
    seed: int
    kinds: tuple[str, ...]
    windows_NS: np.ndarray


def calibrate(golden: Path, seeds: int = SEEDS, kinds: Sequence[str] | None = None, dtypes: Sequence[str] = DTYPES) -> Table:
    """Runs every kind under every seed, one process a core. Minutes."""
    chosen = tuple(kind.id for kind in SEEDED_KINDS) if kinds is None else tuple(kinds)
    with TemporaryDirectory() as scratch:
        shares = list(_shares(golden, Path(scratch), chosen, seeds, dtypes))
        with one_thread_each(), ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), end_with_parent) as pool:
            found = [sample for part in pool.map(_sampled, shares) for sample in part]
    return tabulate(found, {"kinds": sorted(chosen), "seeds": seeds})


def _shares(golden: Path, scratch: Path, kinds: tuple[str, ...], seeds: int, dtypes: Sequence[str]) -> Iterator[Share]:
    """Trained models on text; random ones of two layers, with a flat and a peaked router in turn, on random ids, for what trained ones do
    not show."""
    windows_NS = calibration_windows(golden)
    random_NS = np.random.default_rng(0).integers(0, 256, windows_NS.shape)
    trained, untrained = golden_cases(golden), [list(_untrained(family, scratch)) for family in FAMILIES]
    for dtype in dtypes:
        for seed in range(seeds):
            yield from (Share(case, dtype, seed, kinds, windows_NS) for case in trained)
            yield from (Share(both[seed % 2], dtype, seed, kinds, random_NS) for both in untrained)


def _untrained(family: str, scratch: Path) -> Iterator[Case]:
    config = small(family, 16, 4, num_hidden_layers=2, moe_layers=(0, 1), max_position_embeddings=512)
    for name, scale in ((f"{family}-flat", FLAT), (f"{family}-peaked", PEAKED)):
        yield Case(name, synthesize(config, scratch / name, 0, scale))


def calibration_windows(golden: Path) -> np.ndarray:
    """Token ids (N, WINDOW) of the first half of the held-out text, without what golden prompts hold. Evaluation takes the second half and
    the golden prompts."""
    text = (golden / HELDOUT).read_bytes()
    rows = (row for case in golden_cases(golden) for row in case.prompts_BS)
    taken = {text.find(bytes(row.tolist())) for row in rows}
    starts = [s for s in range(0, len(text) // 2 - WINDOW + 1, WINDOW) if all(abs(s - at) >= WINDOW for at in taken)]
    return np.stack([np.frombuffer(text[s : s + WINDOW], np.uint8) for s in starts]).astype(np.int64)


def _sampled(share: Share) -> list[Sample]:
    found: list[Sample] = []
    for kind in share.kinds:
        draw = Draw(share.case, share.dtype, kind, share.seed, honest(kind, share.seed))
        found += samples(draw, share.windows_NS, long=share.seed == 0)
        found += many_tokens(draw) if share.case.golden is None and share.seed < MANY_SEEDS else ()
    return found


def tabulate(found: list[Sample], facts: dict[str, Any]) -> Table:
    grouped: dict[tuple[str, str, int], list[Sample]] = defaultdict(list)
    for sample in found:
        grouped[sample.dtype, sample.metric, sample.tokens].append(sample)
    groups = {key: Group.of(samples) for key, samples in grouped.items()}
    floors = {key: _floor(group, group.log_ratios) for key, group in groups.items()}
    typical = {key: _floor(group, group.log_errors) for key, group in groups.items()}
    left_out = {source: _left_out(groups, source) for source in ("kinds", "cases")}
    stated = {"false_alarms_per_run": FALSE_ALARMS, "comparisons": COMPARISONS, "confidence": CONFIDENCE}
    return Table(floors, typical, facts | stated | {"samples": len(found), "left_out": left_out})


@dataclass(frozen=True)
class Group:
    """The samples of one dtype, metric and number of tokens, as columns. Sources are numbered: names compare slowly."""

    log_ratios: np.ndarray
    log_errors: np.ndarray
    kinds: np.ndarray
    cases: np.ndarray
    names: dict[str, np.ndarray]

    @staticmethod
    def of(samples: Sequence[Sample]) -> Group:
        ratios, errors = (np.array([getattr(s, name) for s in samples]) for name in ("log_ratio", "log_error"))
        labelled = {f"{source}s": np.unique([getattr(s, source) for s in samples], return_inverse=True) for source in ("kind", "case")}
        return Group(ratios, errors, labelled["kinds"][1], labelled["cases"][1], {name: found[0] for name, found in labelled.items()})


def _floor(group: Group, values: np.ndarray) -> Floor:
    return Floor(spread(values, group.kinds, group.cases), len(values), tuple(np.quantile(values, QUANTILES).tolist()))


def _left_out(groups: dict[tuple[str, str, int], Group], source: str) -> dict[str, Any]:
    """Every kind (or case) against the limits of all others: how many of its samples exceed them, and the worst of all in units of its
    limit."""
    exceeding, asked, worst = 0, 0, ("", "", -np.inf)
    for key, group in groups.items():
        for number, name in enumerate(group.names[source]):
            own = getattr(group, source) == number
            if len(np.unique(group.kinds[~own])) < 2:
                continue
            limit = spread(group.log_ratios[~own], group.kinds[~own], group.cases[~own]).limit(FALSE_ALARMS / COMPARISONS, CONFIDENCE)
            over = group.log_ratios[own] - limit
            exceeding, asked = exceeding + int((over > 0).sum()), asked + len(over)
            worst = max(worst, (str(name), "/".join(map(str, key)), float(over.max())), key=lambda found: found[2])
    return {"exceeding": exceeding, "samples": asked, "worst": worst[0], "at": worst[1], "of_its_limit": round(float(np.exp(worst[2])), 3)}
