"""Corpus and catalogue hold together: every report accounted for, the same URLs, faults for bugs and honest variants for the rest."""

from __future__ import annotations

import pytest

from moe_harness.mutants.catalogue import FAULTS, SEEDED_KINDS, SURVIVORS, entries
from moe_harness.mutants.corpus import BENIGN, BUGS, REPORTS, Report, coverage
from moe_harness.mutants.entry import Fault, Honest

EACH = pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.id)


def test_the_corpus_is_whole():
    """44 bugs and 8 reports of none, as collected; each once."""
    assert (len(BUGS), len(BENIGN)) == (44, 8)
    assert len({report.id for report in REPORTS}) == len({report.url for report in REPORTS}) == len(REPORTS)


@EACH
def test_a_report_has_entries_or_a_reason(report: Report):
    assert bool(report.entries) != bool(report.inexpressible)


@EACH
def test_entries_cite_the_report(report: Report):
    found = [entries()[name] for name in report.entries]
    assert all(entry.url == report.url for entry in found)
    assert all(isinstance(entry, Honest if report.benign else Fault) for entry in found)


def test_no_entry_cites_a_report_that_does_not_list_it():
    listed, urls = {name for report in REPORTS for name in report.entries}, {report.url for report in REPORTS}
    assert not [name for name, entry in entries().items() if entry.url in urls and name not in listed]


def test_bugs_die():
    """Not by a name: test_faults_die.py and the self-test run the checks."""
    assert not [name for report in BUGS for name in report.entries if not entries()[name].dies_by]  # type: ignore[union-attr]


def test_coverage_counts_bugs_whose_every_entry_is_killed():
    every = {fault.id for fault in FAULTS}
    assert coverage(every).killed == coverage(every).expressed == sum(bool(report.entries) for report in BUGS)
    assert coverage(every).total == 44 and coverage(set()).killed == 0
    assert coverage(every - {"vllm-13474-group-by-best"}).killed == coverage(every).killed - 1
    with pytest.raises(ValueError, match="no-such-fault"):
        coverage({"no-such-fault"})


def test_survivors_say_why_and_others_die():
    assert all(fault.dies_by or fault in SURVIVORS for fault in FAULTS)
    assert all(fault.survives for fault in SURVIVORS)


def test_kinds_are_listed_once():
    assert len({kind.id for kind in SEEDED_KINDS}) == len(SEEDED_KINDS)
