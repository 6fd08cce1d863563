"""Prompts that models are timed on: token ids, random, by seed (what is timed does not depend on what they say, but for the experts they go
to), and the work of the calls on them, from the experts that the model says it used. Untimed, on the tokens that are then timed.

Legend: B rows, S positions a row, L MoE layers, E experts.
"""

from __future__ import annotations

import numpy as np

from moe_harness.bench import traffic
from moe_harness.bench.loads import count
from moe_harness.bench.timing import MAX_LENGTH
from moe_harness.bench.traffic import Work
from moe_harness.implementations.interface import Model, ModelConfig, Request, Routing
from moe_harness.suite.subject import Subject


def random_ids(config: ModelConfig, rows: int, length: int, seed: int) -> np.ndarray:
    """(rows, length) int64."""
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, length))


def prompt_length(config: ModelConfig, asked: int, new: int = 0) -> int:
    """As long as was asked for, or as long as positions allow beside `new` further tokens."""
    return max(min(asked, min(MAX_LENGTH, config.max_position_embeddings) - new), 1)


def observed_prefill(subject: Subject, model: Model, prompt_BS: np.ndarray) -> Work | None:
    """Of a prefill into the empty cache that returns the last logits. The prompt stays in the cache. None: routing is not shown."""
    rows, new = prompt_BS.shape
    shown = "routing" in subject.capabilities.features
    out = model.prefill(prompt_BS, np.full(rows, new), Request(logits="last", routing=shown))
    return _work(subject, out.routing, rows, 0, new) if out.routing else None


def observed_decode(subject: Subject, model: Model, held: int, tokens_BS: np.ndarray) -> Work | None:
    """Of as many decode calls as `tokens_BS` has columns, behind `held` positions in the cache."""
    if "routing" not in subject.capabilities.features:
        return None
    total: Work | None = None
    for step, tokens_B in enumerate(np.ascontiguousarray(tokens_BS.T)):
        routing = model.decode(tokens_B, Request(logits="last", routing=True)).routing
        assert routing is not None, f"{subject.backend.name} declares `routing` but shows none"
        work = _work(subject, routing, len(tokens_B), held + step, 1)
        total = total + work if total else work
    return total


def _work(subject: Subject, routing: Routing, rows: int, held: int, new: int) -> Work:
    """Of one call without pads."""
    loads_LE = np.stack([count(ids_TK, subject.config.routing.num_experts) for ids_TK in routing.topk_ids_LTK])
    return traffic.forward(subject.config, subject.dtype, rows, held, new, loads_LE, logits=rows)
