"""Hidden states that put a router's selection at a chosen distance from a flip.

A router has fewer experts than its input has coordinates, so any logits can be had: x = W^+ l, plus something that W does not see. Rounding
x to the candidate's dtype moves the logits by more than the wanted gap; two small groups of coordinates, kept free, then take back what
rounding did, each as many digits finer as the dtype has. What the oracle finds on the rounded state is what counts.

Legend: T tokens, E experts, G groups, D hidden, P the two experts of a pair, F fine coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.special import expit, logit

from moe_harness.cases.tensors import round_to
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.judge.certificate import ranking_allowance
from moe_harness.judge.flips import Contest, flip_probability
from moe_harness.judge.rounding import ACCUMULATION_DEVIATION, parts_deviation, router_noise
from moe_harness.oracle.model import Oracle
from moe_harness.oracle.routing import gap, in_top_groups, ranks_logits

FINE = 12  # coordinates in each of the two groups that correct the pair's logits: two equations stay well conditioned
UNSEEN = 0.1  # RMS of the part of x that W does not see: less makes less noise, nothing would leave x to W alone
LEAD, SCORE_LEAD = (0.5, 2.5), (0.06, 0.14)  # of the other selected experts over the pair, and of the pair over the rest
GROUP_LEAD = 0.3  # by how much the experts of groups that must lose are behind, in scores
CLEAR = 4.0  # in allowances: other experts are further from the boundary than this


@dataclass(frozen=True)
class Wish:
    """What a token's selection shall look like: expert `leader_T` last in, `chaser_T` first out, `gap_T` units apart (see `margins`),
    around the logit `level_T`."""

    leader_T: np.ndarray
    chaser_T: np.ndarray
    gap_T: np.ndarray
    level_T: np.ndarray

    @property
    def pair_TP(self) -> np.ndarray:
        return np.stack([self.leader_T, self.chaser_T], axis=1)


@dataclass(frozen=True)
class Margins:
    """What came of it, as the oracle sees the rounded states. `gap_T`: by how much the leader is ahead in what selection ranks (negative:
    the chaser is). Of the pair: `allowance_T`, the certificate's; `step_T`, half the grid's distance at both, added; `deviation_T`, the
    largest standard deviation of the difference of their other errors. `wish_T`: which of the wishes each token is; those that came out
    otherwise are left out."""

    x_TD: np.ndarray
    ranking_TE: np.ndarray
    delta_TE: np.ndarray
    leader_T: np.ndarray
    chaser_T: np.ndarray
    gap_T: np.ndarray
    allowance_T: np.ndarray
    step_T: np.ndarray
    deviation_T: np.ndarray
    wish_T: np.ndarray

    @property
    def noise_T(self) -> np.ndarray:
        """A lead of half of it flips with a probability of at most one half, whichever of the two makes it up."""
        return self.step_T + self.deviation_T

    def only(self, kept_T: np.ndarray) -> Margins:
        return Margins(**{field.name: getattr(self, field.name)[kept_T] for field in fields(self)})

    def contest(self, ids_TK: np.ndarray) -> Contest:
        """How the candidate settled each pair; leader and chaser are the oracle's."""
        ahead_T = self.gap_T >= 0
        leader_T, chaser_T = np.where(ahead_T, self.leader_T, self.chaser_T), np.where(ahead_T, self.chaser_T, self.leader_T)
        flipped_T = (ids_TK == chaser_T[:, None]).any(-1) & ~(ids_TK == leader_T[:, None]).any(-1)
        gap_T = np.abs(self.gap_T)
        likely_T, strict_T = (flip_probability(gap, self.step_T, self.deviation_T) for gap in (gap_T, gap_T + self.step_T))
        return Contest(leader_T, chaser_T, flipped_T, likely_T, strict_T)


def every_pair(num_experts: int, gap: float, level: float, repeats: int, seed: int) -> Wish:
    """Every expert `repeats` (an even number) times as the leader and as often as the chaser, each pair both ways round, partners drawn
    anew. Levels but 0 are spread over half a unit, so that the dtype's grid lies anywhere under the pairs with equal probability."""
    random, E = np.random.default_rng(seed), num_experts
    orders = [random.permutation(E) for _ in range(repeats // 2)]
    partners = [np.roll(order, random.integers(1, E)) for order in orders]
    T = 2 * E * len(orders)
    levels_T = level + (random.uniform(-0.25, 0.25, T) if level else np.zeros(T))
    return Wish(np.concatenate([*orders, *partners]), np.concatenate([*partners, *orders]), np.full(T, gap), levels_T)


def both_ways(found: Margins, wished: int) -> Margins:
    """Of tokens made from so many wishes of `every_pair`, those whose pair came out the other way round too."""
    there_T = np.isin(np.arange(wished), found.wish_T)
    return found.only((there_T & np.roll(there_T, wished // 2))[found.wish_T])


def margins(oracle: Oracle, layer: int, wish: Wish, dtype: str, unit: str = "allowance_T", seed: int = 0) -> Margins:
    """States for the router of the layer-th MoE layer, exactly representable in `dtype`. `unit` of the wish's gaps: `allowance_T` or
    `noise_T`."""
    spec, w_ED, correction_E = oracle.config.routing, oracle.router_weight(layer), _or_zeros(oracle, oracle.correction(layer))
    bias_E, random = _or_zeros(oracle, oracle.router_bias(layer)), np.random.default_rng(seed)
    middle_T = wish.level_T if ranks_logits(spec) else expit(wish.level_T) + correction_E[wish.leader_T]

    def paired(x_TD: np.ndarray, lead_T: np.ndarray) -> np.ndarray:
        ranking_TP = middle_T[:, None] + lead_T[:, None] * np.array([0.5, -0.5])
        wanted_TP = _logits(ranking_TP, spec, correction_E[wish.pair_TP]) - bias_E[wish.pair_TP]
        return _corrected(w_ED, x_TD, wish.pair_TP, wanted_TP, dtype)

    ranking_TE = _wished_ranking(wish, middle_T, spec, random)
    x_TD = paired(_coarse(w_ED, _logits(ranking_TE, spec, correction_E) - bias_E, dtype, random), np.zeros(len(middle_T)))
    unit_T = getattr(_seen(oracle, layer, x_TD, wish, dtype), unit)
    found = _seen(oracle, layer, paired(x_TD, wish.gap_T * unit_T), wish, dtype)
    near_T = np.abs(found.gap_T / getattr(found, unit) - wish.gap_T) < 0.1 * np.maximum(1.0, wish.gap_T)
    return found.only(near_T & _placed(found, wish, spec))


def _or_zeros(oracle: Oracle, values_E: np.ndarray | None) -> np.ndarray:
    return np.zeros(oracle.config.routing.num_experts) if values_E is None else values_E


def _logits(ranking: np.ndarray, spec: RoutingSpec, correction: np.ndarray) -> np.ndarray:
    """The logits that are ranked so, of sigmoid scores kept away from 0 and 1."""
    return ranking if ranks_logits(spec) else logit(np.clip(ranking - correction, 0.02, 0.98))


def _wished_ranking(wish: Wish, middle_T: np.ndarray, spec: RoutingSpec, random: np.random.Generator) -> np.ndarray:
    """ranking_TE with the pair at the boundary: K - 1 others, drawn among the groups that are to win, clearly above, the rest below."""
    T, E, G = len(middle_T), spec.num_experts, spec.num_groups
    group_TP = wish.pair_TP // (E // G)
    order_TG = random.random((T, G))
    np.put_along_axis(order_TG, group_TP, 2.0, axis=1)
    winning_TG = np.argsort(np.argsort(-order_TG, axis=1), axis=1) < spec.top_groups
    winning_TE = np.repeat(winning_TG, E // G, axis=1)
    draw_TE = np.where(winning_TE, random.random((T, E)), -1.0)
    np.put_along_axis(draw_TE, wish.pair_TP, -2.0, axis=1)
    above_TE = np.argsort(np.argsort(-draw_TE, axis=1), axis=1) < spec.top_k - 1
    lead_TE = random.uniform(*(LEAD if ranks_logits(spec) else SCORE_LEAD), (T, E))
    ranking_TE = middle_T[:, None] + np.where(above_TE, lead_TE, -lead_TE) - np.where(winning_TE, 0.0, GROUP_LEAD)
    np.put_along_axis(ranking_TE, wish.pair_TP, middle_T[:, None], axis=1)
    return ranking_TE


def _coarse(w_ED: np.ndarray, logits_TE: np.ndarray, dtype: str, random: np.random.Generator) -> np.ndarray:
    """Rounded x_TD with these logits but for rounding, the fine coordinates left at zero. Fewer coordinates than experts: the nearest."""
    main = w_ED.shape[1] - 2 * FINE
    inverse = np.linalg.pinv(w_ED[:, :main])
    unseen_TD = UNSEEN * random.standard_normal((len(logits_TE), main))
    x_TD = unseen_TD + (logits_TE - unseen_TD @ w_ED[:, :main].T) @ inverse.T
    return round_to(np.pad(x_TD, ((0, 0), (0, 2 * FINE))).astype(np.float32), dtype)


def _corrected(w_ED: np.ndarray, x_TD: np.ndarray, pair_TP: np.ndarray, wanted_TP: np.ndarray, dtype: str) -> np.ndarray:
    """x_TD with the fine coordinates, one group after the other, set to the smallest numbers that give the pair its logits."""
    x_TD, D = x_TD.copy(), w_ED.shape[1]
    x_TD[:, D - 2 * FINE :] = 0
    for group in (slice(D - 2 * FINE, D - FINE), slice(D - FINE, D)):
        missing_TP = wanted_TP - np.take_along_axis(x_TD.astype(np.float64) @ w_ED.T, pair_TP, axis=1)
        w_TPF = w_ED[:, group][pair_TP]
        square_TPP = w_TPF @ w_TPF.swapaxes(1, 2)
        x_TD[:, group] = round_to((np.linalg.pinv(square_TPP) @ missing_TP[:, :, None] * w_TPF).sum(1).astype(np.float32), dtype)
    return x_TD


def _seen(oracle: Oracle, layer: int, x_TD: np.ndarray, wish: Wish, dtype: str) -> Margins:
    spec, logits_TE = oracle.config.routing, oracle.route(layer, x_TD)[0]
    ranking_TE = oracle.ranking(layer, logits_TE)
    noise = router_noise(x_TD, oracle.router_weight(layer), logits_TE, dtype)
    delta_TE = np.asarray(ranking_allowance(noise.delta_TE, spec))
    step_TE = np.asarray(ranking_allowance(noise.step_TE, spec))
    pairs = (np.take_along_axis(values, wish.pair_TP, axis=1) for values in (ranking_TE, delta_TE, step_TE, noise.accumulated_TE))
    ranking_TP, delta_TP, step_TP, accumulated_TP = pairs
    parts_TP = parts_deviation(x_TD, oracle.router_weight(layer)[wish.pair_TP], dtype)
    slope = 1.0 if ranks_logits(spec) else 0.25
    deviation_T = slope * np.sqrt((parts_TP**2 + (ACCUMULATION_DEVIATION * accumulated_TP) ** 2).sum(1))
    return Margins(
        x_TD, ranking_TE, delta_TE, wish.leader_T, wish.chaser_T, ranking_TP[:, 0] - ranking_TP[:, 1], delta_TP.sum(1), step_TP.sum(1),
        deviation_T, np.arange(len(x_TD)),
    )  # fmt: skip


def _placed(found: Margins, wish: Wish, spec: RoutingSpec) -> np.ndarray:
    """Boolean (T): the pair is at the boundary, and nothing else is near it."""
    allowed_T = found.allowance_T
    inside_TE = in_top_groups(found.ranking_TE, spec) if spec.num_groups > 1 else np.ones_like(found.ranking_TE, bool)
    others_TE = np.where(inside_TE, found.ranking_TE, -np.inf)
    pair_TP = np.take_along_axis(others_TE, wish.pair_TP, axis=1)
    np.put_along_axis(others_TE, wish.pair_TP, np.nan, axis=1)
    above_TE = others_TE > pair_TP.max(1)[:, None] + CLEAR * allowed_T[:, None]
    below_TE = others_TE < pair_TP.min(1)[:, None] - CLEAR * allowed_T[:, None]
    placed_T = (above_TE.sum(1) == spec.top_k - 1) & (below_TE.sum(1) == spec.num_experts - 1 - spec.top_k)
    apart_T = gap(found.ranking_TE, spec) >= np.abs(found.gap_T) * (1 - 1e-9)  # and so no two groups are nearer than the pair
    return placed_T & apart_T & np.isfinite(pair_TP).all(1)
