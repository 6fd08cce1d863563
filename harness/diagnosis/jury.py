"""How many honest implementations would pass on the very input of an exhibit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from moe_harness.diagnosis.rejudge import rejudge
from moe_harness.diagnosis.replay import block_of, model_of, route_of
from moe_harness.emulator.seams import Seams
from moe_harness.judge.exhibit import BLOCK, MODEL, ROUTER, Exhibit
from moe_harness.mutants.catalogue import SEEDED_KINDS, honest
from moe_harness.mutants.entry import Honest
from moe_harness.repro.calls import grids, run
from moe_harness.repro.capsule import Capsule

Answers = Mapping[str, np.ndarray]
MOST = 20  # honest kinds asked, spread over the catalogue


@dataclass(frozen=True)
class Jury:
    """`failed`: the ids of those that do not pass."""

    asked: int
    failed: tuple[str, ...]

    @property
    def passed(self) -> int:
        return self.asked - len(self.failed)


def ask(capsule: Capsule, kinds: tuple[Honest, ...] = SEEDED_KINDS) -> Jury | None:
    """Each kind answers in the candidate's place and is judged by the same clause. None where there is nothing to answer with."""
    if not capsule.exhibit.tensors or capsule.exhibit.kind not in _ANSWERS:
        return None
    chosen = kinds[:: max(1, len(kinds) // MOST)][:MOST]
    return Jury(len(chosen), tuple(kind.id for kind in chosen if not passes(capsule, honest(kind.id))))


def passes(capsule: Capsule, seams: Seams) -> bool:
    """Whether the subject with these seams passes where the candidate failed."""
    with np.errstate(all="ignore"):
        answered = replace(capsule, exhibit=answered_by(capsule.exhibit, seams))
        return not any(metric.violated for metric in rejudge(answered))


def answered_by(exhibit: Exhibit, seams: Seams) -> Exhibit:
    """The exhibit with the subject's answers in the candidate's place."""
    return replace(exhibit, arrays={**exhibit.arrays, **_ANSWERS[exhibit.kind](exhibit, seams)})


def _router(exhibit: Exhibit, seams: Seams) -> Answers:
    routes = route_of(exhibit, exhibit.arrays["x_TD"], seams)
    return {"ids_TK": routes.ids_TK, "weights_TK": routes.weights_TK, "logits_TE": routes.logits_TE}


def _block(exhibit: Exhibit, seams: Seams) -> Answers:
    routes = route_of(exhibit, exhibit.arrays["x_TD"], seams)
    pinned = "weights_TK" in exhibit.arrays
    ids_TK = exhibit.arrays["ids_TK"] if pinned else routes.ids_TK
    return {"y_TD": block_of(exhibit, routes, seams), "ids_TK": ids_TK}


def _model(exhibit: Exhibit, seams: Seams) -> Answers:
    places = grids(exhibit)
    came = run(model_of(exhibit, places, seams), exhibit, places)
    return {f"row{row}.{name}": array for row, parts in came.items() for name, array in parts.items()}


_ANSWERS: dict[str, Callable[[Exhibit, Seams], Answers]] = {ROUTER: _router, BLOCK: _block, MODEL: _model}
