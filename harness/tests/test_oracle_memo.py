"""The oracle remembers what it was asked, by content and within bounds."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.cases.cases import golden_cases
from moe_harness.oracle.memo import Memo


def test_the_same_question_is_answered_once() -> None:
    memo, asked = Memo(), []

    def double(x: np.ndarray, by: int) -> np.ndarray:
        asked.append(by)
        return x * by

    x = np.arange(6.0)
    first = memo(double, x, 2)
    assert memo(double, x.copy(), 2) is first and asked == [2] and memo.hits == 1
    for other, by in ((x, 3), (x.reshape(2, 3), 2), (x.astype(np.float32), 2), (x + 1, 2)):
        memo(double, other, by)
    assert len(asked) == 5
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_the_oldest_answers_go_first() -> None:
    memo = Memo(limit=2 * 80)
    for start in (0, 1, 0, 2, 0, 1):  # 1 is the oldest when 2 comes
        memo(lambda x: x + 1, np.arange(start, start + 10.0))
    assert memo.hits == 2 and memo.held == 160


def test_an_oracle_answers_alike_however_often_it_is_asked() -> None:
    oracle = golden_cases()[0].oracle
    ids_S = np.arange(12)
    first, second = oracle.forward(ids_S), oracle.forward(list(range(12)))
    assert second is first and oracle.memo.hits == 1
    pinned = oracle.forward(ids_S, first.topk_ids_LSK)
    assert pinned is not first and (pinned.logits_SV == first.logits_SV).all()
    assert not pinned.logits_SV.flags.writeable
