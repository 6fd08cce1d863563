"""What the numpy subject, changed at some seams, answers on an exhibit, and how far that is from what the candidate answered.

Distances are in units of what honest implementations may differ by (the judge's bounds), so 1 is the edge and the reason for a verdict.
Legend: B batch, S sequence, T tokens, L MoE layers, K top-k, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moe_harness.diagnosis.guide import Guide, Steps
from moe_harness.diagnosis.rejudge import expected_block, logit_ratio, router_delta, weights_allowed
from moe_harness.emulator.honest import HONEST
from moe_harness.emulator.network import Network
from moe_harness.emulator.numerics import Rounding
from moe_harness.emulator.routing import route
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.subject import SubjectModel
from moe_harness.emulator.values import RouterTensors, Routes
from moe_harness.implementations.interface import LoadSpec
from moe_harness.judge.distance import relative_rms, worst_row
from moe_harness.judge.exhibit import BLOCK, MODEL, PREFIX, ROUTER, SECOND, Exhibit
from moe_harness.judge.rounding import weight_allowance
from moe_harness.repro.calls import RESET, Grid, grids, run

INFINITE = float("inf")


@dataclass(frozen=True)
class Distance:
    """`parts`: by what was compared (selection, weights, router_logits, output)."""

    parts: Mapping[str, float]

    @property
    def worst(self) -> float:
        return max(self.parts.values(), default=INFINITE)


def distance(exhibit: Exhibit, seams: Seams, strict: bool = True) -> Distance:
    """Of the subject with these seams from the candidate. A subject that fails is infinitely far. `strict`: stops where the subject selects
    other experts than the candidate did."""
    measure = {ROUTER: _router, BLOCK: _block, MODEL: _model}[exhibit.kind]
    try:
        with np.errstate(all="ignore"):
            return Distance(
                {name: INFINITE if np.isnan(value) else float(value) for name, value in measure(exhibit, seams, strict).items()}
            )
    except Exception as error:  # a fault may fail in any way on an input it was not made for
        return Distance({type(error).__name__: INFINITE})


def _router(exhibit: Exhibit, seams: Seams, strict: bool) -> dict[str, float]:
    """Over the input that was judged and, where there is one, the second: a fault that explains one explains both."""
    parts: dict[str, float] = {}
    for prefix in ("", SECOND) if f"{SECOND}x_TD" in exhibit.arrays else ("",):
        for name, value in _one_router(exhibit, prefix, seams, strict).items():
            parts[name] = max(parts.get(name, 0.0), value)
    return parts


def _one_router(exhibit: Exhibit, prefix: str, seams: Seams, strict: bool) -> dict[str, float]:
    assert exhibit.config is not None
    x_TD, ids_TK, weights_TK = (exhibit.arrays[prefix + name] for name in ("x_TD", "ids_TK", "weights_TK"))
    delta_TE = router_delta(exhibit, np.nan_to_num(x_TD))
    guide = Guide(iter([Steps(ids_TK, np.ones(len(x_TD), bool), lambda logits_TE: delta_TE)]), strict)
    routes, sound_T = route_of(exhibit, x_TD, guide.lead(seams)), np.isfinite(x_TD).all(-1)
    legal = bool(((ids_TK >= 0) & (ids_TK < exhibit.config.routing.num_experts)).all())
    used_TK = ids_TK if legal else routes.ids_TK.clip(0, exhibit.config.routing.num_experts - 1)
    allowance_TK = weights_allowed(exhibit, delta_TE[sound_T], used_TK[sound_T], routes.weights_TK[sound_T])
    parts = {
        "selection": INFINITE if guide.differing else 0.0,
        "weights": _weights(weights_TK[sound_T], routes.weights_TK[sound_T], allowance_TK),
        "NaN": 0.0 if (np.isnan(weights_TK) == np.isnan(routes.weights_TK)).all() else INFINITE,
    }
    if f"{prefix}logits_TE" in exhibit.arrays:
        shown_TE = exhibit.arrays[f"{prefix}logits_TE"][sound_T]
        parts["router_logits"] = logit_ratio(shown_TE, routes.logits_TE[sound_T], delta_TE[sound_T])
    return parts


def _weights(candidate: np.ndarray, expected: np.ndarray, allowance: np.ndarray) -> float:
    """Largest error in units of the relative allowance; where both are the same, NaN and infinities included, none."""
    same = (candidate == expected) | (np.isnan(candidate) & np.isnan(expected))
    ratio = np.abs(candidate - expected) / (np.abs(expected) * np.abs(allowance))
    return float(np.max(np.where(same, 0.0, np.where(np.isnan(ratio), INFINITE, ratio)), initial=0.0))


def _relative(candidate: np.ndarray, expected: np.ndarray) -> float:
    """Relative RMS where both are finite; infinite where they differ in that."""
    finite = np.isfinite(candidate)
    if (finite != np.isfinite(expected)).any():
        return INFINITE
    return relative_rms(np.where(finite, candidate, 0.0), np.where(finite, expected, 0.0))


def route_of(exhibit: Exhibit, x_TD: np.ndarray, seams: Seams) -> Routes:
    assert exhibit.config is not None
    rounding, tensors = Rounding(exhibit.dtype), exhibit.tensors
    weight, bias, correction = (tensors.get(f"{PREFIX}router.{part}") for part in ("weight", "bias", "correction_bias"))
    assert weight is not None
    whole = RouterTensors(
        rounding(weight.astype(np.float32)),
        None if bias is None else rounding(bias.astype(np.float32)),
        None if correction is None else correction.astype(np.float32),
    )
    return route(x_TD.copy(), whole, exhibit.config.routing, rounding, seams, None)


def block_of(exhibit: Exhibit, routes: Routes, seams: Seams) -> np.ndarray:
    """y_TD of the subject's block under `routes`, or under what is pinned."""
    assert exhibit.config is not None
    arrays, rounding = exhibit.arrays, Rounding(exhibit.dtype)
    if "weights_TK" in arrays:
        weights_TK = seams.router.round_weights(arrays["weights_TK"].astype(np.float32), exhibit.config.routing, rounding)
        routes = Routes(routes.logits_TE, arrays["ids_TK"], weights_TK)
    network = Network(exhibit.config, loaded(exhibit, seams), rounding, seams)
    return network.moe_block(0, arrays["x_TD"].copy(), routes, np.ones(len(arrays["x_TD"]), bool))


def model_of(exhibit: Exhibit, places: Sequence[Grid], seams: Seams) -> SubjectModel:
    """The subject on the exhibit's weights, with room for its calls."""
    assert exhibit.config is not None
    network = Network(exhibit.config, loaded(exhibit, seams), Rounding(exhibit.dtype), seams)
    positions = max(64, sum(place.ids_BS.shape[1] for place in places))
    return SubjectModel(network, LoadSpec(exhibit.dtype, max_length=positions, max_batch=max(len(p.ids_BS) for p in places)))


def _block(exhibit: Exhibit, seams: Seams, strict: bool) -> dict[str, float]:
    arrays, judged_T = exhibit.arrays, exhibit.arrays["judged_T"].astype(bool)
    pinned_TK = arrays.get("weights_TK")
    delta_TE = router_delta(exhibit, arrays["x_TD"])
    guide = Guide(iter([Steps(arrays["ids_TK"], judged_T, lambda logits_TE: delta_TE)]), strict and pinned_TK is None)
    y_TD = block_of(exhibit, route_of(exhibit, arrays["x_TD"], guide.lead(seams)), seams)
    output = _output(exhibit, arrays["y_TD"][judged_T], y_TD[judged_T], expected_block(exhibit)[judged_T])
    return {"selection": INFINITE if guide.differing and pinned_TK is None else 0.0, "output": output}


def _output(exhibit: Exhibit, candidate_TD: np.ndarray, supposed_TD: np.ndarray, right_TD: np.ndarray) -> float:
    """The block's metrics in units of their bounds. Relative to the larger of what is supposed and what is right: rounding in what was left
    out, or divided away, does not shrink with the output."""
    finite = np.isfinite(candidate_TD)
    if (finite != np.isfinite(supposed_TD)).any():
        return INFINITE
    candidate_TD, supposed_TD = (np.where(finite, x, 0.0) for x in (candidate_TD, supposed_TD))
    scale = max(_rms(supposed_TD), _rms(right_TD))
    if scale == 0.0:
        return 0.0 if (candidate_TD == supposed_TD).all() else INFINITE
    error_T = np.sqrt(np.mean((candidate_TD - supposed_TD) ** 2, axis=-1)) / scale
    return max(_rms(error_T) / exhibit.limit("block_error"), float(np.max(error_T, initial=0.0)) / exhibit.limit("worst_token_error"))


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if x.size else 0.0


def _model(exhibit: Exhibit, seams: Seams, strict: bool) -> dict[str, float]:
    places = grids(exhibit)
    guide = Guide(_steps(exhibit, places), strict)
    came = run(model_of(exhibit, places, guide.lead(seams)), exhibit, places)
    parts: dict[str, float] = {"selection": INFINITE if guide.differing else 0.0}
    for row in exhibit.facts["rows"]:
        for name, value in _row(exhibit, row, came[row]):
            parts[name] = max(parts.get(name, 0.0), value)
    return parts


def _row(exhibit: Exhibit, number: int, came: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    row = f"row{number}."
    candidate_SV = exhibit.arrays[f"{row}logits_SV"]
    kept = exhibit.facts.get("kept_positions")
    supposed_SV = came["logits_SV"] if kept is None else came["logits_SV"][kept]
    yield "output", _relative(candidate_SV, supposed_SV) / exhibit.limit("logit_error", number)
    yield "worst position", _worst(candidate_SV, supposed_SV) / exhibit.limit("worst_position_error", number)
    logits_LSE = came["router_logits_LSE"]
    if f"{row}router_logits_LSE" in exhibit.arrays:
        yield (
            "router_logits",
            _relative(exhibit.arrays[f"{row}router_logits_LSE"], logits_LSE) / exhibit.limit("router_logit_error", number),
        )
    if f"{row}weights_LSK" in exhibit.arrays:
        delta_L = exhibit.limit("worst_router_logit_error", number) * np.sqrt(np.mean(np.square(logits_LSE), axis=(1, 2)))
        weights_LSK = came["weights_LSK"]
        moved_LSK = np.broadcast_to(2 * delta_L[:, None, None], weights_LSK.shape)
        allowance = weight_allowance(weights_LSK, moved_LSK, exhibit.dtype)
        yield "weights", _weights(exhibit.arrays[f"{row}weights_LSK"], weights_LSK, allowance)


def _worst(candidate_SV: np.ndarray, supposed_SV: np.ndarray) -> float:
    finite = np.isfinite(candidate_SV) & np.isfinite(supposed_SV)
    return worst_row(np.where(finite, candidate_SV, 0.0), np.where(finite, supposed_SV, 0.0))


def _steps(exhibit: Exhibit, places: list[Grid]) -> Iterator[Steps]:
    """The candidate's selections in the order in which the subject makes them: call by call, layer by layer."""
    assert exhibit.config is not None
    share = max(exhibit.limit("worst_router_logit_error", row) for row in exhibit.facts["rows"])

    def allowed(logits_TE: np.ndarray) -> float:
        finite = logits_TE[np.isfinite(logits_TE)]
        return share * _rms(finite)

    for place in places:
        for layer in () if place.kind == RESET else range(len(exhibit.config.moe_layers)):
            yield Steps(place.ids_LTK[layer], place.known_T, allowed)


def loaded(exhibit: Exhibit, seams: Seams) -> dict[str, np.ndarray]:
    """The weights as the subject holds them, converted where conversion is what the seams change."""
    assert exhibit.config is not None
    rounding, storage, config = Rounding(exhibit.dtype), seams.storage, exhibit.config
    tied = config.tie_word_embeddings
    tensors = {}
    for name, stored in exhibit.whole.items():
        if name == "lm_head.weight" and tied:
            continue
        values = storage.widen(stored if storage.pack is HONEST.storage.pack else storage.pack(name, stored, config))
        tensors[name] = values if name.endswith("correction_bias") else rounding(values)
    return storage.loaded(tensors, config, storage.pack is not HONEST.storage.pack or exhibit.kind == MODEL)
