"""LOSS: next-token cross entropy, as HF's `labels=`. Legend: B batch, S sequence, V vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.implementations.interface import Loss
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.oracle.outputs import IGNORED, cross_entropies
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.drivers import valid
from moe_harness.suite.situations import ragged
from moe_harness.suite.subject import Subject


@clause("LOSS-01", "The loss equals HF's golden loss", dtypes=LOGIC, golden=True)
def test_loss_equals_hf_golden(subject: Subject, verdict: Verdict) -> None:
    model, expected = _model(subject), subject.case.expected
    ids_BS, labels_BS = expected["input_ids_BS"], expected["labels_BS"]
    observed = model.loss(ids_BS, np.full(len(ids_BS), ids_BS.shape[1]), labels_BS)
    verdict.judge(_metric(observed, float(expected["loss"]), ids_BS[0], subject))
    verdict.saw(labels=int(np.sum(labels_BS[:, 1:] != IGNORED)))
    verdict.require(labels=32)


@clause("LOSS-02", "Labels of -100 and pads do not count, every other one counts once", dtypes=LOGIC)
@pytest.mark.parametrize("padding", ["right", "left"])
def test_ignored_labels_do_not_count(subject: Subject, verdict: Verdict, padding: str) -> None:
    subject.needs(f"{padding}_padding")
    model = _model(subject)
    input_ids_BS, lengths_B, _ = ragged(subject, padding)
    labels_BS = input_ids_BS.copy()  # pads carry labels too: only the lengths say that they do not count
    terms: list[np.ndarray] = []
    for b, length in enumerate(lengths_B):
        where = valid(input_ids_BS.shape[1], int(length), padding)
        labels_BS[b, where] = row = _labels(input_ids_BS[b, where], b)
        logits_SV = subject.case.oracle.forward(input_ids_BS[b, where]).logits_SV
        terms.append(cross_entropies(logits_SV, row))
    observed = model.loss(input_ids_BS, lengths_B, labels_BS, padding)
    verdict.judge(_metric(observed, float(np.concatenate(terms).mean()), input_ids_BS[b, where], subject), about=f"{padding} padding")
    verdict.saw(labels=sum(map(len, terms)))
    verdict.require(labels=32)


def _labels(ids_S: np.ndarray, row: int) -> np.ndarray:
    """The text itself, every third or so label left out; how many are left differs by row, so that a mean of row means shows."""
    labels_S = ids_S.copy()
    labels_S[:: 3 + row] = IGNORED
    labels_S[: 5 * row] = IGNORED
    return labels_S


def _metric(observed: float, expected: float, row_S: np.ndarray, subject: Subject) -> Metric:
    """|d log softmax| <= 2 max |dl|; the mean over many labels stays below twice the RMS error allowed. `row_S`: one of the rows, for how
    far rounding takes its logits."""
    scale = 2 * float(np.sqrt(np.mean(np.square(subject.case.oracle.forward(row_S).logits_SV))))
    return Metric.within("loss_error", abs(observed - expected), subject.floors.forward(row_S)["logit_error"].times(scale))


def _model(subject: Subject) -> Loss:
    subject.needs("loss")
    model = subject.model()
    assert isinstance(model, Loss), f"{subject.backend.name} declares `loss` but its model has no loss"
    return model
