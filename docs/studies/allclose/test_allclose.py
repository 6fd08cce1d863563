"""The rules of today on cases worked out by hand, the counts made of outcomes, and the page made of the counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from allclose import three_way, two_way
from allclose.candidates import Candidate
from allclose.evidence import Evidence
from allclose.judge import Outcome, judge
from allclose.page import COUNTS, ORDER, PAGE, PICTURE, fill
from allclose.picture import _label
from allclose.references import Archive
from allclose.rules import RULES
from allclose.tally import Rate, tally
from moe_harness.suite.subject import Workshop

random = np.random.default_rng(0)
EXACT = 4 * random.standard_normal((2, 30, 60))
NOISE = random.standard_normal((3, 2, 30, 60))


def evidence(error: float, base: float, shift: float = 0.0, dtype: str = "float32") -> Evidence:
    """Errors of the candidate and of the reference implementation, drawn apart; float32's is a hundredth of either's."""
    observed, same, reference = EXACT + error * NOISE[0] + shift, EXACT + base * NOISE[1], EXACT + 0.01 * base * NOISE[2]
    return Evidence(tuple(observed), tuple(reference), tuple(same), tuple(EXACT), dtype)


# rule id without its site -> (error and shift that pass, that fail), beside a reference implementation that errs by 1e-3
CASES = {
    "allclose-0.001": ((1e-5, 0.0), (0.0, 0.02)),
    "allclose-0.01": ((1e-4, 0.0), (0.0, 0.2)),
    "cosine": ((0.05, 0.0), (0.5, 0.0)),
    "max-kl-0.8": ((0.1, 100.0), (3.0, 0.0)),
    "max-kl-0.1": ((0.05, 100.0), (1.0, 0.0)),
    "tiers": ((0.0, 100.0), (0.2, 0.0)),
    "nmse": ((0.05, 0.0), (0.2, 0.0)),
    "same": ((1.9e-3, 0.0), (2.2e-3, 0.0)),
    "ratio": ((1.4e-3, 0.0), (1.7e-3, 0.0)),
    "module": ((1e-3, 0.0), (1.7e-3, 0.0)),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_each_rule_passes_one_and_fails_one(rule):
    passing, failing = CASES[rule.id.removesuffix("-logits").removesuffix("-block")]
    assert rule.passes(evidence(passing[0], 1e-3, passing[1])), rule.ratio(evidence(passing[0], 1e-3, passing[1]))
    assert not rule.passes(evidence(failing[0], 1e-3, failing[1])), rule.ratio(evidence(failing[0], 1e-3, failing[1]))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_nan_fails_every_rule(rule):
    given = evidence(0.0, 1e-3)
    spoilt = (np.where(np.arange(60) == 7, np.nan, given.observed[0]), *given.observed[1:])
    with np.errstate(invalid="ignore"):
        assert not rule.passes(replace(given, observed=spoilt))


def test_allclose_is_numpys():
    for error in (0.5e-3, 3e-3):
        observed, reference = EXACT[0] + error, EXACT[0]
        assert (two_way.allclose(observed, reference, 1e-3) <= 1) == np.allclose(observed, reference, rtol=1e-3, atol=1e-3)


def test_tiers_worked_out_by_hand():
    """One position, five logits: the largest is 10, so the top five may be off by .15 (rounded to .01), all of them by .55."""
    expected = np.array([[10.0, 6.0, 4.0, 2.0, 0.0, -2.0]])
    zero_sum = np.array([[0.0, 1.0, -2.0, 1.0, 0.0, 0.0]])  # leaves slope and shift of the regression alone
    assert zero_sum.sum() == 0 and (zero_sum * expected).sum() == 0
    assert two_way.tiers(expected + 0.07 * zero_sum, expected) == pytest.approx((0.14 - 1e-5) / 10 / 0.015)
    assert two_way.tiers(expected + 0.08 * zero_sum, expected) > 1
    tie = np.array([[10.0, 9.9999, 4.0, 2.0, 0.0, -2.0]])
    swapped = tie[:, [1, 0, 2, 3, 4, 5]]
    assert two_way.tiers(swapped, tie) < 1 and two_way.tiers(np.where(tie == 9.9999, 10.002, tie), tie) > 1


def test_tiers_leave_out_what_is_minus_infinity():
    expected = np.array([[10.0, 6.0, -np.inf, 2.0]])
    with np.errstate(invalid="ignore"):
        assert two_way.tiers(expected, expected) == 0 and two_way.tiers(np.array([[10.0, -np.inf, 4.0, 2.0]]), expected) < 1


def test_same_allows_three_times_in_bfloat16():
    assert (
        three_way.same(evidence(2.5e-3, 1e-3, dtype="float32"), 1e-4) > 1 > three_way.same(evidence(2.5e-3, 1e-3, dtype="bfloat16"), 1e-4)
    )


def test_overlap_of_equal_and_of_disjoint_samples():
    sample = random.standard_normal(1000)
    assert three_way.overlap(sample, sample) == pytest.approx(1) and three_way.overlap(sample, sample + 100) == 0


def test_one_bad_input_fails_the_module_test():
    """A twentieth of the errors four times as large hides in the distribution, not in its own input."""
    exact = np.repeat(EXACT[:1], 20, axis=0)
    same, observed = (exact + 1e-3 * random.standard_normal(exact.shape) for _ in range(2))
    given = Evidence(tuple(observed), tuple(exact), tuple(same), tuple(exact), "float32")
    assert three_way.module_test(given) <= 1
    worse = (exact[0] + 4 * (observed[0] - exact[0]), *observed[1:])
    assert three_way.module_test(replace(given, observed=worse)) > 1


DOCS = Path(__file__).parents[2]


def test_the_page_holds_the_counts(tmp_path):
    copy = tmp_path / PAGE
    copy.write_bytes((DOCS / PAGE).read_bytes())
    fill(copy, json.loads((DOCS / COUNTS).read_text("utf-8")))
    assert copy.read_text("utf-8") == (DOCS / PAGE).read_text("utf-8"), (
        "run it in docs/studies: python -m allclose --from ../rivals.json --write .."
    )


def test_the_picture_shows_every_row():
    picture = (DOCS / PICTURE).read_text("utf-8")
    assert all(f">{_label(name)}<" in picture for name in ORDER) and picture.count("<svg") == 1


def test_a_page_without_a_place_is_refused(tmp_path):
    (tmp_path / PAGE).write_text("no place\n", "utf-8")
    with pytest.raises(ValueError, match="0 places"):
        fill(tmp_path / PAGE, json.loads((DOCS / COUNTS).read_text("utf-8")))


def test_rates_and_intervals():
    """Of none in 300 the upper end is 1 - .025^(1/300)."""
    assert Rate(0, 300).interval == pytest.approx((0.0, 1 - 0.025 ** (1 / 300)))
    assert Rate(5, 5).interval == pytest.approx((0.025**0.2, 1.0))
    assert Rate(3, 4).share == 0.75


def outcome(entry: str, ratio: float, visible: bool = True, ours: bool = True) -> Outcome:
    return Outcome(Candidate(entry, "mixtral", "float32"), visible, {rule.id: ratio for rule in RULES}, ours, ours)


def test_only_visible_candidates_count_and_tuned_limits_spare_the_honest():
    faults = [outcome("gate-up-swapped", 3.0), outcome("silu-missing", 1.5), outcome("ids-clipped", 0.0, visible=False)]
    honest = [outcome("sum-tree", 2.0, ours=False), outcome("ids-ascending", 0.5, ours=False)]
    counts = tally([*faults, *honest])
    assert counts["rows"]["cosine"]["float32"] == {"kills": [2, 2], "alarms": [1, 2], "tuned": [1, 2]}
    assert counts["rows"]["cosine"]["all"] == [2, 3] and counts["rows"]["ours"]["all"] == [3, 3]
    assert counts["rows"]["ours"]["float32"] == {"kills": [2, 2], "alarms": [0, 2]}


@pytest.mark.parametrize(
    ("entry", "visible", "killed"), [("gate-up-swapped", True, True), ("ids-clipped", False, True), ("sum-tree", True, False)]
)
def test_a_fault_and_an_honest_variant_are_told_apart(tmp_path, entry, visible, killed):
    """Swapped projections are seen by all, bad input by our clauses alone, another order of summation by nobody."""
    found = judge(Candidate(entry, "mixtral", "float32", seed=1), Workshop(tmp_path), Archive())
    assert (found.visible, found.all_clauses) == (visible, killed)
    assert {ratio > 1 for ratio in found.ratios.values()} == {visible and killed}
