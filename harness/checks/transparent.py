"""A subject's router made transparent: Hypothesis chooses its logits directly, exactly, in every dtype. Legend: T tokens, E experts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.oracle import routing
from harness.subject import Subject
from harness.synthetic import small, synthesize, transparent_input
from implementations.interface import ModelConfig, Probe, Routing


@dataclass(frozen=True)
class TransparentRouter:
    """One-layer model of the subject's family whose router logits are the first coordinates of its input."""

    subject: Subject
    num_experts: int = 12
    top_k: int = 3
    normalize_topk: bool = True

    @property
    def config(self) -> ModelConfig:
        return small(self.subject.config.family, self.num_experts, self.top_k, self.normalize_topk)

    @cached_property
    def probe(self) -> Probe:
        key = f"transparent-{self.config}"
        return self.subject.probe(self.subject.workshop.once(key, lambda dst: synthesize(self.config, dst, router_scale=None)))

    def input(self, logits_TE: np.ndarray, shift: int = 0) -> np.ndarray:
        return transparent_input(logits_TE, np.full(len(logits_TE), shift, np.float32), self.config)

    def route(self, logits_TE: np.ndarray, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(ids_TK, weights_TK) that the subject makes of these logits; asserts the contract's shapes and dtypes."""
        return one_layer(self.probe.route(0, self.input(logits_TE, shift)), len(logits_TE), self.top_k)

    def expected_weights(self, logits_TE: np.ndarray, ids_TK: np.ndarray) -> np.ndarray:
        return routing.combine_weights(logits_TE.astype(np.float64), ids_TK, self.config.routing)


def variants(subject: Subject, num_experts: int | None = None, top_k: int | None = None) -> list[TransparentRouter]:
    """The routings a family can have: Mixtral always renormalises, the others have a flag for it."""
    renormalised = TransparentRouter(subject, num_experts or 12, top_k or 3)
    plain = TransparentRouter(subject, num_experts or 16, top_k or 4, normalize_topk=False)
    return [renormalised] if subject.config.family == "mixtral" else [renormalised, plain]


def one_layer(routing_1TK: Routing, tokens: int, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids_TK, weights_TK) of a probe's answer, after asserting the contract's shapes and dtypes."""
    ids, weights = routing_1TK.topk_ids_LTK, routing_1TK.topk_weights_LTK
    assert ids.shape == weights.shape == (1, tokens, top_k), f"expected shape {(1, tokens, top_k)}, got {ids.shape} and {weights.shape}"
    assert ids.dtype == np.int64 and weights.dtype == np.float32, (
        f"expected int64 ids and float32 weights, got {ids.dtype}, {weights.dtype}"
    )
    return ids[0], weights[0]
