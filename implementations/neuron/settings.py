"""What can be chosen about a Neuron model: how it is split, by which of NxD's four paths tokens come to their experts, its options.

all         every expert multiplies every token, those not chosen by weight 0
selective   the weights of the chosen experts are gathered, token by token
capacity    every expert has C places, taken in the order of the tokens; who comes too late is dropped
blockwise   places in blocks of one expert each, as many blocks as can be needed: nothing is dropped
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from moe_harness.implementations.interface import InvalidInput

PATHS = ("all", "selective", "capacity", "blockwise")
BLOCK = 512  # places of a block
ALL_BELOW = 512  # choices (tokens times K) below which every expert multiplies every token
MODES = ("batched", "compiled", "nxd", "sampling", "unfused")


@dataclass(frozen=True)
class Rule:
    """How a model dispatches. `capacity_factor` None: nothing is dropped. `forced`: one path for every call, or None for NxD's choice."""

    num_experts: int
    top_k: int
    capacity_factor: float | None = None
    forced: str | None = None
    block: int = BLOCK

    @property
    def limited(self) -> float | None:
        """The capacity factor, or None where it leaves room for all."""
        factor = self.capacity_factor
        return None if factor is None or factor >= self.num_experts / self.top_k else factor

    def path(self, tokens: int, sequence: int) -> str:
        """For `tokens` of sequences `sequence` long; one token of each is decoding, where capacity has no say."""
        if sequence > 1 and self.limited is not None:
            return "capacity"
        if self.forced is not None:
            return self.forced
        sparse = tokens * self.top_k < self.num_experts
        if sparse:
            return "selective"
        return "all" if sequence == 1 or tokens * self.top_k < ALL_BELOW else "blockwise"

    def capacity(self, tokens: int) -> int:
        """Places of every expert; padding counts among the tokens."""
        factor = self.limited
        return tokens if factor is None else min(tokens, math.ceil(tokens * self.top_k * factor / self.num_experts))


@dataclass(frozen=True)
class Variant:
    """`neuron:tp2,ep4,blockwise`: degrees, and one dispatch path for every call (None: NxD's choice). Options, unless they are given:
    `batched`, continuous_batching is false; `compiled`, compile is device; `sampling`, on_device_sampling is true. `unfused`: conversion
    writes q, k and v apart. `nxd`: compiled by NxD's ModelBuilder; tp 0 then stands for all visible cores."""

    tp: int = 1
    ep: int = 1
    path: str | None = None
    batched: bool = False
    compiled: bool = False
    sampling: bool = False
    unfused: bool = False
    nxd: bool = False

    @property
    def size(self) -> int:
        """Processes."""
        return self.tp * self.ep

    @property
    def options(self) -> dict[str, str]:
        """Of a LoadSpec, unless it gives them."""
        return {
            "continuous_batching": str(not self.batched).lower(),
            "on_device_sampling": str(self.sampling).lower(),
            "compile": "device" if self.compiled else "none",
        }

    @property
    def lacks(self) -> tuple[str, ...]:
        """Features that the others have."""
        uncompiled = ("static", "pinned", "probe", "router") if self.nxd else ()
        return (*uncompiled, *(("slots",) if self.batched else ()))

    @classmethod
    def parse(cls, text: str | None) -> Variant:
        """Raises ValueError."""
        words = text.split(",") if text else []
        found = cls(tp=0) if "nxd" in words else cls()
        for word in words:
            degree = re.fullmatch(r"(tp|ep)([1-9]\d*)", word)
            if degree:
                found = replace(found, tp=int(degree[2])) if degree[1] == "tp" else replace(found, ep=int(degree[2]))
            elif word in PATHS and word != "capacity":
                found = replace(found, path=word)
            elif word in MODES:
                found = replace(found, **{word: True})  # type: ignore[arg-type]
            else:
                known = ", ".join(("tpN", "epN", *(path for path in PATHS if path != "capacity"), *MODES))
                raise ValueError(f"backend 'neuron' has no variant {word!r}; known: {known}, joined by commas")
        if found.nxd and found.ep > 1:
            raise ValueError("backend 'neuron': nxd runs one program on all cores, and by epN each would hold other experts")
        if found.nxd and found.compiled:
            raise ValueError("backend 'neuron': nxd has a compiler of its own")
        if found.nxd and found.sampling:
            raise ValueError("backend 'neuron': with nxd tokens are chosen on the host")
        return found


@dataclass(frozen=True)
class Settings:
    """LoadSpec.options, all of them optional. `capacity_factor`: places an expert, of what an even load needs; none: nothing is dropped.
    `mask_padding`: pads take no places. `block`: places of a block. `router_dtype`: float32, or `model`, as NxD casts it unless told
    otherwise. `continuous_batching`: prompts are encoded one by one, else all rows of the batch in one call. `on_device_sampling`:
    `generate` chooses tokens inside the graph, of the 256 likeliest. `compile`: a backend of torch.compile, or none; device: neuron, or
    where a CPU stands in for it aot_eager, which traces as the others do and compiles nothing. `compiled`: with the variant nxd, a
    directory that compiled models are kept in."""

    capacity_factor: float | None = None
    mask_padding: bool = False
    block: int = BLOCK
    router_dtype: str = "float32"
    continuous_batching: bool = True
    on_device_sampling: bool = False
    compile: str = "none"
    compiled: str = ""

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> Settings:
        """Raises InvalidInput."""
        unknown = sorted(options.keys() - _READ.keys())
        if unknown:
            raise InvalidInput(f"unknown option {unknown[0]!r}; known: {', '.join(_READ)}")
        given: dict[str, Any] = {name: _read(name, text) for name, text in options.items()}
        return cls(**given)


def _read(name: str, text: str) -> object:
    read, wanted = _READ[name]
    try:
        return read(text)
    except (ValueError, KeyError) as error:
        raise InvalidInput(f"option {name!r}: {wanted} is expected, got {text!r}") from error


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _among(*words: str) -> tuple[Callable[[str], object], str]:
    return {word: word for word in words}.__getitem__, f"{', '.join(words[:-1])} or {words[-1]}"


_READ: dict[str, tuple[Callable[[str], object], str]] = {
    "capacity_factor": (_positive, "a positive number"),
    "mask_padding": (_boolean, "true or false"),
    "block": (_count, "a positive integer"),
    "router_dtype": _among("float32", "model"),
    "continuous_batching": (_boolean, "true or false"),
    "on_device_sampling": (_boolean, "true or false"),
    "compile": _among("none", "device", "eager", "aot_eager", "inductor", "neuron"),
    "compiled": (str, "a directory"),
}
