"""Golden prompts: what is stored is clear, a change of it is found, and implementations that the making did not see do not flip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moe_harness.build_golden.reading import beside_tie, problems, read
from moe_harness.cases.cases import Case, golden_cases
from moe_harness.cases.prompts import CLEAR, TIED_DTYPES, TIES, Prompts, load, save, stack
from moe_harness.implementations.interface import DTYPES, LoadSpec, Request, RoutingSpec
from moe_harness.mutants.catalogue import HONEST_VARIANTS, SEEDED_KINDS, backend

CASES = golden_cases()
MIXTRAL = next(case for case in CASES if case.name == "mixtral")
OTHERS = [variant for variant in HONEST_VARIANTS if variant not in SEEDED_KINDS]  # the making has not seen them


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


def test_there_are_eight_clear_prompts_that_reach_every_expert(case: Case):
    for dtype in DTYPES:
        clear = case.prompts[CLEAR, dtype]
        assert len(clear) >= 8 and clear.input_ids_BS.shape[1] <= 16 and len(np.unique(clear.input_ids_BS, axis=0)) == len(clear)
        assert (clear.clearance_B > 1).all() and clear.experts_reached(case.config.routing.num_experts).all()
    assert all((case.prompts[TIES, dtype].clearance_B > 1).all() for dtype in TIED_DTYPES)


def test_what_is_stored_agrees_with_the_oracle(case: Case):
    assert list(problems(case.oracle, case.prompts)) == []


def flipped(case: Case, prompts: Prompts, variant: str, dtype: str) -> np.ndarray:
    """Boolean (B): the variant selects other experts than the first side."""
    model, ids_BS = backend(variant).load(str(case.checkpoint), LoadSpec(dtype)), prompts.input_ids_BS
    routing = model.prefill(ids_BS, np.full(len(ids_BS), ids_BS.shape[1]), Request(logits="none", routing=True)).routing
    ids_LBSK = routing.topk_ids_LTK.reshape(len(routing.topk_ids_LTK), *ids_BS.shape, -1)
    return (np.sort(ids_LBSK) != np.sort(prompts.ids_BXLSK[:, 0]).swapaxes(0, 1)).any((0, 2, 3))


@pytest.mark.parametrize("dtype", TIED_DTYPES)
def test_honest_variants_flip_on_near_ties_alone(dtype: str):
    case, visible = MIXTRAL, [variant.id for variant in OTHERS if "routing" in backend(variant.id).capabilities().features]
    assert not any(flipped(case, case.prompts[CLEAR, dtype], variant, dtype).any() for variant in visible)
    redrawn = [f"{kind.id}#7" for kind in SEEDED_KINDS]  # the making draws from seed 0
    seen = np.mean([flipped(case, case.prompts[TIES, dtype], variant, dtype) for variant in redrawn])
    assert 0 < seen < 1


def altered(prompts: Prompts, **changes: np.ndarray) -> dict:
    return {(CLEAR, "bfloat16"): replace(prompts, **changes)}


def test_an_altered_prompt_is_found():
    case = MIXTRAL
    clear = stack([case.prompts[CLEAR, "bfloat16"]])
    other = clear.input_ids_BS.copy()
    other[0, 3] = (other[0, 3] + 1) % 256
    for changes in ({"input_ids_BS": other}, {"margin_BXLS": clear.margin_BXLS + 1e-6}, {"noise_BXLS": clear.noise_BXLS * 1e3}):
        assert list(problems(case.oracle, altered(clear, **changes)))
    assert any("within the noise" in problem for problem in problems(case.oracle, altered(clear, noise_BXLS=clear.noise_BXLS * 1e3)))


def test_a_tie_that_is_none_is_found():
    case = MIXTRAL
    ties = case.prompts[TIES, "bfloat16"]
    assert any("near-tie" in p for p in problems(case.oracle, {(TIES, "bfloat16"): replace(ties, tie_margin_B=ties.tie_margin_B + 0.1)}))


def test_both_sides_of_a_near_tie_differ_at_the_tie_and_not_before(case: Case):
    ties = case.prompts[TIES, "bfloat16"]
    for input_ids_S, (layer, position) in zip(ties.input_ids_BS, ties.tie_B2.tolist(), strict=True):
        one, other = (np.sort(side.topk_ids_LSK) for side in read(case.oracle, input_ids_S, (layer, position)).sides)
        assert (one[:, :position] == other[:, :position]).all() and (one[:layer] == other[:layer]).all()
        assert len(set(one[layer, position]) ^ set(other[layer, position])) == 2


def test_beside_a_tie_counts_the_nearest_other_expert():
    ranking_E = np.array([0.9, 0.5, 0.4, 0.3999, 0.1])
    assert beside_tie(ranking_E, RoutingSpec(5, 3)) == pytest.approx(0.1)  # between ranks 2 and 3; rank 5 is 0.3 away


def test_what_is_saved_is_loaded(tmp_path):
    found = MIXTRAL.prompts
    save(tmp_path / "prompts.safetensors", found)
    again = load(tmp_path / "prompts.safetensors")
    assert found.keys() == again.keys() and all((found[key].margin_BXLS == again[key].margin_BXLS).all() for key in found)
