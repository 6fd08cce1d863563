"""What the subject declares that it has."""

from __future__ import annotations

FEATURES: tuple[str, ...] = tuple(
    "prefill decode reset chunked_prefill left_padding right_padding nan_pads pinned probe routing generate packed loss router slots "
    "capacity static".split()
)
FAMILIES = ("mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "dots1")


LOGITS = ("all", "last")


def features() -> tuple[str, ...]:
    return FEATURES


def logits() -> tuple[str, ...]:
    """What a Request may ask for, besides `none`."""
    return LOGITS
