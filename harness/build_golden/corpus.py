"""The text that golden models learn from and are judged on.

It is Python's own documentation, `pydoc_data.topics`. Licence: PSF License Version 2, https://docs.python.org/3/license.html,
Copyright Python Software Foundation. It differs between Python versions: the held-out tail is committed as `golden/heldout.txt`, and the
manifest holds the sha256 of the rest. Docstrings of the standard library were tried as further text: no better at equal steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

HELDOUT_BYTES = 16384
SHORTEST_DUPLICATE = 40  # characters; shorter paragraphs ("Examples:") repeat legitimately
TABLE = "+---"


def corpus() -> bytes:
    """UTF-8 text, the same on every machine with the same Python. Paragraphs occur once, or the held-out tail would be known from training:
    a fifth of `pydoc_data.topics` repeats itself word for word. Without tables: half of their bytes are padding and rules, which flatters
    the loss and overloads the few experts that see to them."""
    return "\n\n".join(_without_repeats(p for p in _paragraphs() if TABLE not in p)).encode("utf-8")


def split(text: bytes) -> tuple[bytes, bytes]:
    """(training text, held-out tail of HELDOUT_BYTES). Raises ValueError if less than as much again is left for training."""
    if len(text) < 2 * HELDOUT_BYTES:
        raise ValueError(f"{len(text)} bytes of text; at least {2 * HELDOUT_BYTES} are needed")
    return text[:-HELDOUT_BYTES], text[-HELDOUT_BYTES:]


def _paragraphs() -> Iterator[str]:
    from pydoc_data import topics  # 0.5 MB, wanted only here

    for name in sorted(topics.topics):
        yield from topics.topics[name].split("\n\n")


def _without_repeats(paragraphs: Iterable[str]) -> Iterator[str]:
    seen = set()
    for paragraph in paragraphs:
        key = " ".join(paragraph.split())
        if key and key not in seen:
            yield paragraph
        if len(key) >= SHORTEST_DUPLICATE:
            seen.add(key)
