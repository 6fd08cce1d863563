"""The native backend in a worker of this interpreter: the bits of this process, generation and every optional protocol it has included."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.implementations import interface
from moe_harness.implementations.interface import GenerationSpec, LoadSpec, PinnedRouting, Request
from moe_harness.implementations.registry import backend
from moe_harness.implementations.tests.tiny import tiny_checkpoint
from moe_harness.implementations.worker import WorkerBackend

pytest.importorskip("torch")
ALL = Request(logits="all", routing=True)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def models(request, tmp_path_factory):
    """(in this process, in a worker), of the same checkpoint."""
    path = tmp_path_factory.mktemp("tiny") / "checkpoint"
    tiny_checkpoint(path, "qwen3_moe")
    worker = WorkerBackend("native")
    spec = LoadSpec(dtype=request.param)
    yield backend("native").load(str(path), spec), worker.load(str(path), spec)
    worker.close()


def states(config):
    return np.random.default_rng(0).integers(-8, 8, (6, config.hidden_size)).astype(np.float32) / 8  # exact in every dtype


CALLS = {
    "prefill": lambda m: m.prefill(np.arange(24).reshape(3, 8) + 3, np.array([8, 3, 5]), ALL).logits_BSV,
    "decode": lambda m: m.decode(np.array([4, 5, 6]), ALL).logits_BSV,
    "routing": lambda m: m.decode(np.array([7, 8, 9]), ALL).routing.topk_weights_LTK,
    "route": lambda m: m.route(1, states(m.config)).router_logits_LTE,
    "moe_block": lambda m: m.moe_block(0, states(m.config)),
    "pinned": lambda m: m.moe_block(0, states(m.config), PinnedRouting(np.arange(18).reshape(1, 6, 3) % 10)),
    "greedy": lambda m: np.array(m.generate(np.array([[5, 6, 7]]), np.array([3]), GenerationSpec(12, eos_token_ids=()))),
    "sampled": lambda m: np.array(m.generate(np.array([[5, 6, 7]]), np.array([3]), GenerationSpec(12, 0.9, 8, 0.95, 3, ()))),
}


@pytest.mark.parametrize("call", CALLS)
def test_bits_are_those_of_this_process(models, call):
    here, there = models
    there.config = here.config
    for model in models:
        model.reset()
        if call in ("decode", "routing"):
            CALLS["prefill"](model)
    ours, theirs = (CALLS[call](model) for model in models)
    assert ours.size and (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape) and ours.tobytes() == theirs.tobytes()


def test_it_has_the_protocols_that_it_has_here(models):
    optional = [thing for thing in vars(interface).values() if getattr(thing, "_is_runtime_protocol", False)]
    here, there = ([protocol.__name__ for protocol in optional if isinstance(model, protocol)] for model in models)
    assert here == there and "Generate" in here and len(here) < len(optional)
