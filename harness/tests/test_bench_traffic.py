"""Operations and bytes against numbers worked out by hand, and against the parameter counts of public models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moe_harness.bench import traffic
from moe_harness.bench.traffic import Work, forward, moe_block, router
from moe_harness.cases.describe import read_model
from moe_harness.implementations.families.weights import parameter_counts
from moe_harness.implementations.interface import ModelConfig, RoutingSpec

# One layer, D=4, F=3, E=2, K=1, V=5, H=2, N=1, P=2. Matrices for every token: q 4x4=16, k 2x4=8, v 8, o 16, router 2x4=8: 56. Three norms
# of 4: 12. An expert: 3 D F = 36. Head: 5x4 = 20.
TINY = ModelConfig(
    family="mixtral", architecture="MixtralForCausalLM", vocab_size=5, hidden_size=4, intermediate_size=3, moe_intermediate_size=3,
    num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=2, max_position_embeddings=16, rms_norm_eps=1e-5,
    rope_theta=1e4, routing=RoutingSpec(2, 1), moe_layers=(0,),
)  # fmt: skip
honest_experts = traffic._experts
PUBLIC = ("mixtral-8x7b", "qwen3-30b-a3b")


def prefill_of_two() -> Work:
    """Two tokens, both to expert 0, logits of the last."""
    return forward(TINY, "float32", rows=1, held=0, new=2, loads_LE=np.array([[2, 0]]), logits=1)


def test_prefill_by_hand():
    work = prefill_of_two()
    assert work.flops == 2 * 2 * 56 + 2 * 20 + (1 + 2) * 4 * 2 * 2 + 2 * 6 * 4 * 3  # matrices, head, attention, experts
    assert work.flops == 456
    # weights 56 + 12, head 20, two rows of the embedding 8, one expert 36, keys and values: 2 written and 2 read, of 2 x 2 elements: 16
    assert work.bytes == 4 * (68 + 20 + 8 + 36 + 16) == 592
    assert work.experts_touched == 1 and work.to_record()["loads"] == [[2, 0]]


def test_decode_by_hand():
    """Two rows behind three positions each, to different experts."""
    work = forward(TINY, "bfloat16", rows=2, held=3, new=1, loads_LE=np.array([[1, 1]]), logits=2)
    assert work.flops == 2 * 2 * 56 + 2 * 2 * 20 + 2 * 4 * 4 * 2 * 2 + 2 * 6 * 4 * 3 == 576
    assert work.bytes == 2 * (68 + 20 + 8 + 2 * 36 + 2 * (1 + 4) * 4) == 416
    assert work.experts_touched == 2


def test_without_logits_the_head_is_neither_read_nor_multiplied():
    with_head = prefill_of_two()
    without = forward(TINY, "float32", rows=1, held=0, new=2, loads_LE=np.array([[2, 0]]), logits=0)
    assert (with_head.flops - without.flops, with_head.bytes - without.bytes) == (40, 80)


def test_a_window_bounds_attention_and_what_is_read_of_the_cache():
    window = replace(TINY, sliding_window=3)
    wide, narrow = (forward(c, "float32", rows=1, held=5, new=1, loads_LE=np.array([[1, 0]]), logits=0) for c in (TINY, window))
    assert wide.flops - narrow.flops == (6 - 3) * 4 * 2 * 2
    assert wide.bytes - narrow.bytes == 4 * (6 - 3) * 2 * 2
    two = forward(window, "float32", rows=1, held=5, new=2, loads_LE=np.array([[2, 0]]), logits=0)
    one = forward(window, "float32", rows=1, held=5, new=1, loads_LE=np.array([[1, 0]]), logits=0)
    assert two.bytes - one.bytes == 4 * (4 + 2 * 4)  # a row of the embedding; one more written and one more read


def test_block_by_hand():
    work = moe_block(TINY, "bfloat16", tokens=2, loads_E=np.array([1, 1]))
    assert work.flops == 2 * 2 * 8 + 2 * 6 * 4 * 3 == 176
    assert work.bytes == 2 * (8 + 72 + 2 * 2 * 4) == 192  # router, two experts, x and y
    assert moe_block(TINY, "bfloat16", tokens=2, loads_E=np.array([2, 0])).bytes == 192 - 2 * 36


def test_router_by_hand():
    work = router(TINY, "float32", tokens=3)
    assert (work.flops, work.bytes, work.experts_touched) == (2 * 3 * 8, 4 * (8 + 3 * 4), 0)


def test_a_shared_expert_is_read_whatever_the_loads():
    shared = replace(TINY, shared_expert="gated", shared_expert_intermediate_size=7)
    more = [moe_block(c, "float32", tokens=2, loads_E=np.array([2, 0])) for c in (shared, TINY)]
    assert more[0].flops - more[1].flops == 2 * 2 * (3 * 4 * 7 + 4)  # SwiGLU and the gate's row
    assert more[0].bytes - more[1].bytes == 4 * (3 * 4 * 7 + 4)


def test_rounds_of_several_calls_add_up():
    total = prefill_of_two() + prefill_of_two()
    assert (total.flops, total.bytes, total.experts_touched, total.loads_LE.tolist()) == (912, 1184, 2, [[4, 0]])
    assert total.weights == prefill_of_two().weights


@pytest.mark.parametrize("name", PUBLIC)
def test_one_token_reads_the_active_parameters(name: str):
    """But for the embedding's table, of which it reads one row. An independent count: implementations/families/weights.py."""
    config = read_model(name)
    E, K, L = config.routing.num_experts, config.routing.top_k, len(config.moe_layers)
    loads_LE = np.tile(np.arange(E) < K, (L, 1)).astype(int)
    work = forward(config, "bfloat16", rows=1, held=0, new=1, loads_LE=loads_LE, logits=1)
    active, table = parameter_counts(config)[1], config.vocab_size * config.hidden_size
    cache = 2 * config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim
    assert work.bytes == 2 * (active - table + config.hidden_size + cache)
    assert work.flops == pytest.approx(2 * (active - table), rel=1e-3)  # norms are no matrices; one pair of attention
    assert work.experts_touched == L * K


@pytest.mark.parametrize(
    "mutant",
    [
        lambda config, size, loads_LE: replace(honest_experts(config, size, np.ones_like(loads_LE)), flops=144),  # all experts are read
        lambda config, size, loads_LE: replace(honest_experts(config, size, loads_LE), bytes=2 * 36),  # another dtype's size
        lambda config, size, loads_LE: replace(honest_experts(config, size, loads_LE), flops=2 * 4 * 4 * 3),  # two matrices, not three
    ],
)
def test_a_wrong_count_fails_the_number_by_hand(monkeypatch: pytest.MonkeyPatch, mutant):
    monkeypatch.setattr(traffic, "_experts", mutant)
    with pytest.raises(AssertionError):
        test_prefill_by_hand()


@pytest.mark.parametrize("loads_LE", [[[1, 0]], [[3, -1]], [[1, 1], [1, 1]], [[1, 1, 0]]])
def test_loads_that_are_not_those_of_the_tokens_are_refused(loads_LE: list[list[int]]):
    with pytest.raises(ValueError, match="are not 1 a token of 2 tokens in each of 1 MoE layers"):
        forward(TINY, "float32", rows=1, held=0, new=2, loads_LE=np.array(loads_LE), logits=1)
