"""CAP: what a backend and its model say of themselves is what they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np

from moe_harness.cases.synthetic import small
from moe_harness.implementations import families
from moe_harness.implementations.interface import (
    Generate,
    GenerationSpec,
    Loss,
    Model,
    ModelCapabilities,
    Packed,
    PinnedRouting,
    Probe,
    Request,
    RouterBuilder,
    Slots,
    StaticProof,
    Unsupported,
)
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.drivers import prefill, request
from moe_harness.suite.situations import WINDOW, has_window, like, text, two_layers
from moe_harness.suite.subject import Subject

PROTOCOLS = {"probe": Probe, "generate": Generate, "packed": Packed, "loss": Loss, "slots": Slots, "static": StaticProof}
IDS_BS, FULL_B = np.arange(8, dtype=np.int64).reshape(2, 4) + 1, np.array([4, 4])
CHANGE = 1e-4  # of the largest logit: far above the rounding of float32, far below what a token's influence is


@clause("CAP-01", "A model declares what its config says", dtypes=LOGIC)
def test_declared_equals_config(subject: Subject, verdict: Verdict) -> None:
    subject.needs()
    for model in (subject, like(subject, "declared", two_layers(subject.config.family))):
        declared, asked = asdict(model.model().capabilities()), asdict(ModelCapabilities.of(model.config))
        del asked["supports_cache_reset"]  # not the config's to say: CAP-03
        wrong = {name: (declared.get(name), value) for name, value in asked.items() if declared.get(name) != value}
        verdict.judge(Metric("wrong_declarations", len(wrong), 0), about=f"(declared, config): {wrong}")
        verdict.saw(fields=len(asked))
    verdict.require(fields=2)


@clause("CAP-02", "Declared experts, positions and window are those observed", dtypes=LOGIC)
def test_declared_equals_observed(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill")
    verdict.judge(Metric("wrong_use_of_positions", int(subject.model().capabilities().uses_position != _order_matters(subject)), 0))
    verdict.saw(prompts=2)
    if "routing" in subject.capabilities.features:
        _judge_experts(subject, verdict)
    if has_window(families.family(subject.config.family)):
        _judge_window(subject, verdict)
    verdict.require(prompts=2)


@clause("CAP-03", "A declared feature is there; an undeclared one is absent or raises Unsupported", dtypes=LOGIC)
def test_features_are_what_is_declared(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill")
    features, model = subject.capabilities.features, subject.model()
    absent = [name for name, protocol in PROTOCOLS.items() if name in features and not isinstance(model, protocol)]
    absent += ["router"] if "router" in features and not isinstance(subject.backend, RouterBuilder) else []
    verdict.judge(Metric("declared_but_absent", len(absent), 0), about=", ".join(absent))
    resets = model.capabilities().supports_cache_reset
    verdict.judge(Metric("contradictory_reset", int(resets != ("reset" in features)), 0), about=f"supports_cache_reset {resets}")
    for name, call in _attempts(subject).items():
        declared, works = name in features, _works(call, subject.model())
        verdict.judge(Metric("declared_but_unsupported", int(declared and not works), 0), about=name)
        verdict.judge(Metric("works_undeclared", int(works and not declared), 0), about=name)
        verdict.saw(features=1)
    verdict.require(features=10)


def _attempts(subject: Subject) -> dict[str, Callable[[Model], object]]:
    """The smallest call that needs each feature."""
    layers, K, lengths_B = len(subject.config.moe_layers), subject.config.routing.top_k, np.array([4, 3])
    pinned = PinnedRouting(np.broadcast_to(np.arange(K), (layers, IDS_BS.size, K)).copy())
    one_token = GenerationSpec(1, eos_token_ids=())
    plain, x_TD = Request(logits=subject.capabilities.logits[0]), np.ones((2, subject.config.hidden_size), np.float32)

    def after_prefill(call: Callable[[Model], object]) -> Callable[[Model], object]:
        def both(model: Model) -> object:
            model.prefill(IDS_BS, FULL_B, plain)
            return call(model)

        return both

    return {
        "decode": after_prefill(lambda model: model.decode(IDS_BS[:, 0].copy(), plain)),
        "chunked_prefill": after_prefill(lambda model: model.prefill(IDS_BS, FULL_B, plain)),
        "left_padding": lambda model: model.prefill(IDS_BS, lengths_B, replace(plain, padding="left")),
        "right_padding": lambda model: model.prefill(IDS_BS, lengths_B, replace(plain, padding="right")),
        "pinned": lambda model: model.prefill(IDS_BS, FULL_B, replace(plain, pinned=pinned)),
        "routing": lambda model: model.prefill(IDS_BS, FULL_B, replace(plain, routing=True)).routing,
        "probe": lambda model: (model.route(0, x_TD), model.moe_block(0, x_TD)) if isinstance(model, Probe) else None,
        "generate": lambda model: model.generate(IDS_BS, FULL_B, one_token) if isinstance(model, Generate) else None,
        "packed": lambda model: model.prefill_packed(IDS_BS[0], np.array([0, 4]), plain) if isinstance(model, Packed) else None,
        "loss": lambda model: model.loss(IDS_BS, FULL_B, IDS_BS) if isinstance(model, Loss) else None,
        "slots": lambda model: model.prefill_slots(IDS_BS, FULL_B, np.array([1, 0]), plain) if isinstance(model, Slots) else None,
    }


def _works(call: Callable[[Model], object], model: Model) -> bool:
    """Not so if it raises Unsupported, or answers without what was asked for."""
    try:
        return call(model) is not None
    except Unsupported:
        return False


def _judge_experts(subject: Subject, verdict: Verdict) -> None:
    prompts_BS, declared = subject.case.prompts_BS, subject.model().capabilities()
    lengths_B = np.full(len(prompts_BS), prompts_BS.shape[1])
    routing = subject.model().prefill(prompts_BS, lengths_B, Request(logits="none", routing=True)).routing
    assert routing is not None, "`routing` is declared and was asked for; none came"
    (L, _, K), highest = routing.topk_ids_LTK.shape, int(routing.topk_ids_LTK.max())
    wrong = (declared.experts_per_token != K) + (highest >= declared.num_experts) + (len(subject.config.moe_layers) != L)
    verdict.judge(Metric("wrong_routing_shape", wrong, 0), about=f"{L} layers, top-{K}, highest id {highest}; declared {declared}")
    verdict.saw(experts_hit=len(np.unique(routing.topk_ids_LTK)))


def _judge_window(subject: Subject, verdict: Verdict) -> None:
    """One layer, so that the first token reaches the last position only through a window that holds both."""
    config = two_layers(subject.config.family, sliding_window=WINDOW, num_hidden_layers=1, moe_layers=(0,))
    model = like(subject, "window-declared", config)
    declared = model.model().capabilities().sliding_window
    verdict.judge(Metric("wrong_window_declared", int(declared != WINDOW), 0), about=f"declared {declared}, config {WINDOW}")
    for length, visible in ((WINDOW, True), (WINDOW + 1, False)):
        tokens_BS = text(model, 1, length)
        other_BS = tokens_BS.copy()
        other_BS[0, 0] = (other_BS[0, 0] + 1) % 256
        seen = _differ(model, tokens_BS, other_BS)
        verdict.judge(Metric("window_not_as_declared", int(seen != visible), 0), about=f"token 0 seen from position {length - 1}: {seen}")


def _order_matters(subject: Subject) -> bool:
    """Swapping two early tokens changes the last logits. Of one layer: in a second one, the causal mask alone would tell their order."""
    model = like(subject, "order", small(subject.config.family))
    tokens_BS = text(model, 1, 12)
    swapped_BS = tokens_BS.copy()
    swapped_BS[:, [2, 7]] = tokens_BS[:, [7, 2]]
    return _differ(model, tokens_BS, swapped_BS)


def _differ(subject: Subject, one_BS: np.ndarray, other_BS: np.ndarray) -> bool:
    """Whether the last logits of two prompts differ by more than rounding."""
    one, other = (prefill(subject.model(), ids_BS, request(subject))[0].logits_SV[-1] for ids_BS in (one_BS, other_BS))
    return float(np.max(np.abs(one - other))) > CHANGE * float(np.max(np.abs(one)))
