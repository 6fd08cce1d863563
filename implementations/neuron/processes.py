"""An engine whose model is split over the processes of a crew."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np

from moe_harness.implementations.interface import GraphProof, ModelConfig
from moe_harness.implementations.neuron.crew import Crew
from moe_harness.implementations.neuron.engine import Call, Pins, Result, Routed
from moe_harness.implementations.neuron.loading import Plan

_numbers = count()  # of models


class Processes:
    """`Engine`. Raises in `__init__` what a process raised while it loaded. `alive`: whether all processes are there."""

    def __init__(self, path: str, plan: Plan, crew: Crew):
        self._crew, self._number = crew, next(_numbers)
        self.config: ModelConfig = self._ask("load", path, plan)

    @property
    def alive(self) -> bool:
        return self._crew.alive

    def run(self, call: Call) -> Result:
        found: Result = self._ask("run", call)
        return found

    def route(self, layer: int, x_TD: np.ndarray) -> Routed:
        found: Routed = self._ask("route", layer, x_TD)
        return found

    def block(self, layer: int, x_TD: np.ndarray, pins: Pins | None) -> np.ndarray:
        found: np.ndarray = self._ask("block", layer, x_TD, pins)
        return found

    def prove(self, call: Call) -> GraphProof:
        """Of the process whose graph is not static, or of the first."""
        found: list[GraphProof] = self._crew.ask(self._number, "prove", call)
        return next((proof for proof in found if not proof.is_static), found[0])

    def clear(self) -> None:
        self._ask("clear")

    def close(self) -> None:
        if self._crew.alive:
            self._ask("unload")

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._crew.ask(self._number, method, *arguments)[0]
