"""The rules, each at the site where its users apply it and with their limit. What they ask was read in the sources named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from allclose import three_way, two_way
from allclose.evidence import Evidence

LOGITS, BLOCK = "logits", "block"
TORCH = "https://github.com/pytorch/pytorch/blob/v2.8.0/torch/_dynamo/utils.py"
LLAMA = "https://github.com/ggml-org/llama.cpp/blob/master/tests/test-backend-ops.cpp"
MAX = "https://github.com/modular/modular/blob/f7655ad89bca608659a32197fc036337e05eb870/max/tests/integration/pipelines/python/verify_pipelines.py"
NXD = "https://github.com/aws-neuron/neuronx-distributed-inference/blob/4bcdc54/src/neuronx_distributed_inference/utils/accuracy.py"
NEURON = "https://awsdocs-neuron.readthedocs-hosted.com/en/latest/vllm-neuron/docs/design/accuracy"


@dataclass(frozen=True)
class Rule:
    """`ratio`: measured / allowed of one run; above 1 it fails. `site`: whole-model logits, or the output of one MoE block. `what`: the
    condition for a pass; `source`: where it is defined or used."""

    id: str
    title: str
    site: str
    what: str
    source: str
    ratio: Callable[[Evidence], float]

    def passes(self, given: Evidence) -> bool:
        return self.ratio(given) <= 1.0


def _direct(measure: Callable[..., float], *limit: float) -> Callable[[Evidence], float]:
    return lambda given: measure(given.pooled.observed, given.pooled.reference, *limit)


def _allclose(tolerance: float, site: str) -> Rule:
    what = f"every value within {tolerance:g} + {tolerance:g} x reference"
    source = "https://numpy.org/doc/stable/reference/generated/numpy.allclose.html"
    return Rule(f"allclose-{tolerance:g}-{site}", f"allclose {tolerance:g}", site, what, source, _direct(two_way.allclose, tolerance))


def _kl(limit: float, what: str) -> Rule:
    return Rule(f"max-kl-{limit:g}", f"max KL {limit:g}", LOGITS, what, MAX, _direct(two_way.max_kl, limit))


def _both_sites(site: str) -> tuple[Rule, ...]:
    return (
        Rule(f"nmse-{site}", "NMSE 5e-4", site, "squared error at most 5e-4 of the reference's square", LLAMA, _direct(two_way.nmse, 5e-4)),
        Rule(f"same-{site}", "torch same()", site, SAME, TORCH, lambda given: three_way.same(given, 1e-4)),
        Rule(f"ratio-{site}", "three-way 1.5x", site, RATIO, f"{NEURON}/logit_validation_design.html", _ratio),
        Rule(f"module-{site}", "three-way overlap", site, OVERLAP, f"{NEURON}/module_test_guidelines.html", three_way.module_test),
    )


def _ratio(given: Evidence) -> float:
    return three_way.rms_ratio(given, 1.5)


SAME = (
    "within 1e-4 + 1e-4 x reference everywhere; or RMSE from float64 at most m times that of the reference implementation in the same "
    "dtype, plus 1e-5; m = 2, in 16 bits 3"
)
RATIO = "RMSE from float64 at most 1.5 times that of the reference implementation in the same dtype"
OVERLAP = (
    "errors from float64 distributed like those of the reference implementation in the same dtype (overlap .99) or no larger; in no input "
    "more than 5 times its largest error or 3 times its RMS error"
)
COSINE = "cosine similarity of all logits at least .999"
TIERS = (
    "shift removed; errors over the largest of the top 5, 50, 1000, all logits at most .01, .02, .03, .05; another first token only if it "
    "leads by less than .001"
)
RULES: tuple[Rule, ...] = (
    _allclose(1e-3, LOGITS),
    _allclose(1e-2, LOGITS),
    Rule("cosine", "cosine .999", LOGITS, COSINE, "https://docs.modular.com/max/develop/logit-comparison/", _direct(two_way.cosine, 0.999)),
    _kl(0.8, "no position's KL above 0.8 nats, MAX's limit for Qwen3-30B-A3B in bfloat16"),
    _kl(0.1, "no position's KL above 0.1 nats, stricter"),
    Rule("tiers", "tiered top-k", LOGITS, TIERS, NXD, _direct(two_way.tiers)),
    *_both_sites(LOGITS),
    _allclose(1e-2, BLOCK),
    *_both_sites(BLOCK),
)
