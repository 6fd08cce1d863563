"""Routers made transparent: Hypothesis chooses their logits directly, exactly, in every dtype. Legend: T tokens, E experts, K top-k."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from moe_harness.cases.synthetic import routing_of, small, transparent_input, transparent_router
from moe_harness.implementations import families
from moe_harness.implementations.interface import (
    ModelConfig,
    Probe,
    Router,
    RouterBuilder,
    RouterWeights,
    Routing,
    RoutingSpec,
    Unsupported,
)
from moe_harness.judge.certificate import ranking_allowance
from moe_harness.oracle import routing
from moe_harness.suite.situations import like
from moe_harness.suite.subject import Subject

FINE = 2.0**-14  # exact in float32 beside a correction of a few units, far above the rounding of a float32 score


@dataclass(frozen=True)
class TransparentRouter:
    """A router whose logits are the first coordinates of its input, plus its bias. `config`: a one-layer model's, for the shapes.
    `answers`: the router itself, or a probe of the model it stands in. The biases are float64 or None."""

    config: ModelConfig
    answers: Router | Probe
    bias_E: np.ndarray | None
    correction_E: np.ndarray | None
    seen: list[tuple[np.ndarray, Routing]] = field(default_factory=list, compare=False)  # the last input, and the answer

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """Its weights, float32, by the canonical names of a one-layer model."""
        parts = {"weight": transparent_router(self.config), "bias": self.bias_E, "correction_bias": self.correction_E}
        return {f"layers.0.moe.router.{name}": part.astype(np.float32) for name, part in parts.items() if part is not None}

    @property
    def spec(self) -> RoutingSpec:
        return self.config.routing

    def input(self, logits_TE: np.ndarray, shift: int = 0) -> np.ndarray:
        return transparent_input(logits_TE, np.full(len(logits_TE), shift, np.float32), self.config)

    def route(self, logits_TE: np.ndarray, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(ids_TK, weights_TK) that the subject makes of these logits; asserts the contract's shapes and dtypes."""
        return one_layer(self.layer(self.input(logits_TE, shift)), len(logits_TE), self.spec.top_k)

    def layer(self, x_TD: np.ndarray) -> Routing:
        answer = self.answers.route(0, x_TD) if isinstance(self.answers, Probe) else self.answers.route(x_TD)
        self.seen[:] = [(x_TD, answer)]
        return answer

    def expected_weights(self, logits_TE: np.ndarray, ids_TK: np.ndarray) -> np.ndarray:
        return routing.combine_weights(self.biased(logits_TE), ids_TK, self.spec)

    def ranking(self, logits_TE: np.ndarray) -> np.ndarray:
        """What selection must rank."""
        return routing.ranking(self.biased(logits_TE), self.spec, self.correction_E)

    def allowance(self) -> np.ndarray | float:
        """By what a ranking may be off: the logits are exact, scores in float32 are not."""
        return ranking_allowance(0.0, self.spec)

    def biased(self, logits_TE: np.ndarray) -> np.ndarray:
        return logits_TE.astype(np.float64) + (0.0 if self.bias_E is None else self.bias_E)


def variants(subject: Subject, num_experts: int | None = None, top_k: int | None = None) -> list[TransparentRouter]:
    """The routings a case can have: renormalising, and plain where its family has a flag for it."""
    specs = [(num_experts or 12, top_k or 3, True), (num_experts or 16, top_k or 4, False)]
    if subject.router_spec is not None:
        return [bare(subject, resized(subject.router_spec, *specs[0][:2]))]
    free = "normalize_topk" in families.family(subject.config.family).free
    return [inside(subject, *spec) for spec in (specs if free else specs[:1])]


def inside(subject: Subject, num_experts: int, top_k: int, normalize_topk: bool) -> TransparentRouter:
    """The router of a one-layer model of the subject's family."""
    return in_model(transparent_model(subject, num_experts, top_k, normalize_topk))


def transparent_model(subject: Subject, num_experts: int = 12, top_k: int = 3, normalize_topk: bool = True) -> Subject:
    """The subject with a one-layer model of its family whose router is transparent for a case."""
    family = subject.config.family
    return like(subject, "transparent", small(family, routing=routing_of(family, num_experts, top_k, normalize_topk)), router_scale=None)


def in_model(subject: Subject) -> TransparentRouter:
    """The router of the subject's own case, which is a transparent one."""
    oracle = subject.case.oracle
    return TransparentRouter(subject.config, subject.probe(), oracle.router_bias(0), oracle.correction(0))


def bare(subject: Subject, spec: RoutingSpec, correction: int = 0) -> TransparentRouter:
    """A router by itself, with biases on the same coarse grid as its logits, the correction bias around `correction`. Raises
    Unsupported where the backend has none."""
    subject.needs_feature("router")
    config = small("mixtral", hidden_size=spec.num_experts + 16, routing=spec)
    bias_E, correction_E = (np.round(4 * np.random.default_rng(seed).standard_normal(spec.num_experts)) / 16 for seed in (1, 2))
    correction_E += correction + np.arange(spec.num_experts) * FINE  # decides between equal scores, and is lost in bfloat16
    biases = (bias_E if spec.router_bias else None, correction_E if spec.correction_bias else None)
    as_float32 = (None if b is None else b.astype(np.float32) for b in biases)
    return TransparentRouter(config, build(subject, spec, RouterWeights(transparent_router(config), *as_float32)), *biases)


def build(subject: Subject, spec: RoutingSpec, weights: RouterWeights) -> Router:
    builder = subject.backend
    if not isinstance(builder, RouterBuilder):
        raise Unsupported(f"{builder.name} declares `router` but has no such method")
    return builder.router(spec, weights, subject.load_spec)


def resized(spec: RoutingSpec, num_experts: int, top_k: int) -> RoutingSpec:
    """The same rules over fewer experts: groups of four, one more than K needs."""
    if spec.num_groups == 1:
        return replace(spec, num_experts=num_experts, top_k=top_k)
    groups = num_experts // 4
    return replace(spec, num_experts=num_experts, top_k=top_k, num_groups=groups, top_groups=min(groups, -(-top_k // 4) + 1))


def one_layer(routing_1TK: Routing, tokens: int, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids_TK, weights_TK) of a probe's answer, after asserting the contract's shapes and dtypes."""
    ids, weights = routing_1TK.topk_ids_LTK, routing_1TK.topk_weights_LTK
    assert ids.shape == weights.shape == (1, tokens, top_k), f"expected shape {(1, tokens, top_k)}, got {ids.shape} and {weights.shape}"
    assert ids.dtype == np.int64 and weights.dtype == np.float32, (
        f"expected int64 ids and float32 weights, got {ids.dtype}, {weights.dtype}"
    )
    return ids[0], weights[0]
