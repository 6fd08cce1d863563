"""The text of the golden models."""

from __future__ import annotations

import pytest

from moe_harness.build_golden.corpus import HELDOUT_BYTES, SHORTEST_DUPLICATE, corpus, split


def test_split_keeps_the_tail_apart() -> None:
    text, heldout = split(bytes(range(256)) * 200)
    assert text + heldout == bytes(range(256)) * 200 and len(heldout) == HELDOUT_BYTES
    with pytest.raises(ValueError, match="at least"):
        split(b"x" * (2 * HELDOUT_BYTES - 1))


def test_no_long_paragraph_of_the_heldout_text_is_trained_on() -> None:
    text, heldout = split(corpus())
    paragraphs = [p for p in heldout.decode("utf-8", "ignore").split("\n\n")[1:] if len(" ".join(p.split())) >= SHORTEST_DUPLICATE]
    assert paragraphs and not [p for p in paragraphs if p.encode() in text]
