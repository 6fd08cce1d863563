"""Which part of which HF tensor stands where in the tensors of a process. One list of moves serves loading, conversion and its inverse.

Names and shapes are NxD's: experts stacked and turned, gate beside up, q, k and v as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Dict, List, Tuple

import numpy as np

from moe_harness.implementations.families.family import Family
from moe_harness.implementations.families.weights import Placement, by_target
from moe_harness.implementations.interface import ModelConfig, Unsupported
from moe_harness.implementations.neuron.mesh import EMPTY, Heads, Mesh, spread

Region = Tuple[slice | int, ...]
HEAD = "lm_head.weight"
NAMES = {
    "embed.weight": "embed_tokens.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attention.q_norm.weight": "self_attn.q_layernorm.weight",
    "attention.k_norm.weight": "self_attn.k_layernorm.weight",
    "attention.o.weight": "self_attn.o_proj.o_proj.weight",
    "attention.o.bias": "self_attn.o_proj.o_proj.bias",
    "moe.router.weight": "mlp.router.linear_router.weight",
    "moe.router.correction_bias": "mlp.router.e_score_correction_bias",
    "moe.gate_up.weight": "mlp.expert_mlps.mlp_op.gate_up_proj.weight",
    "moe.down.weight": "mlp.expert_mlps.mlp_op.down_proj.weight",
    "moe.shared.gate_up.weight": "mlp.shared_experts.gate_up_proj.weight",
    "moe.shared.down.weight": "mlp.shared_experts.down_proj.weight",
    "moe.shared.gate.weight": "mlp.shared_experts.gate.weight",
    "mlp.gate_up.weight": "mlp.gate_up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
QKV = "self_attn.qkv_proj.Wqkv"
ROWS, COLUMNS = 2048, 128  # of a block that is transposed at a time: it stays in the processor's cache
PAD = 8  # numbers behind a row of it: rows a power of two apart would push each other out


@dataclass(frozen=True)
class Move:
    """`local[put] = source[take]`, transposed if `turned`."""

    source: str
    take: Region
    put: Region
    turned: bool = False

    def there(self, source: np.ndarray, local: np.ndarray) -> None:
        """From the HF tensor into the process's."""
        _copy(local[self.put], source[self.take], self.turned)

    def back(self, local: np.ndarray, source: np.ndarray) -> None:
        """The inverse."""
        _copy(source[self.take], local[self.put], self.turned)


@dataclass
class Local:
    """A tensor of one process. `canonical`: a canonical tensor with its dtype; `dtype`: the config's. What no move fills is zero."""

    canonical: str
    shape: Tuple[int, ...]
    dtype: str
    moves: List[Move] = field(default_factory=list)


def local_name(canonical: str, fused: bool = True) -> str:
    """Where a canonical tensor goes; q, k and v go to one where they are `fused`."""
    prefix, name = _split(canonical)
    part = name.split(".")
    if part[0] == "attention" and part[1] in ("q", "k", "v"):
        return f"{prefix}{QKV if fused else unfused(part[1])}.{part[2]}"
    return prefix + NAMES.get(name, name)


def unfused(part: str) -> str:
    """Of q, k or v, which stand as one under the name QKV."""
    return f"self_attn.qkv_proj.{part}_proj"


def layout(family: Family, config: ModelConfig, stored_head: bool, mesh: Mesh, fused: bool = True) -> Dict[str, Local]:
    """Every tensor of the mesh's process. Raises Unsupported for sizes that do not divide."""
    check_divides(config, mesh)
    rules = _Rules(config, mesh, fused)
    found: Dict[str, Local] = {}
    for name, sources in by_target(family.layout(config, stored_head)).items():
        local = found.setdefault(local_name(name, fused), Local(name, rules.shape(name), config.dtype))
        local.moves += [move for source in sources for move in rules.moves(source)]
    if HEAD not in found:
        (embed,) = (p for p in family.layout(config, stored_head) if p.name == "embed.weight")
        found[HEAD] = Local(
            "embed.weight", rules.shape(HEAD), config.dtype, list(rules.moves(Placement(embed.source, HEAD, (), embed.shape)))
        )
    return found


def pieces(local: Local) -> List[Local]:
    """What is put together at a time, in the order of the tensor's bytes: of a stack of experts each by itself."""
    if not (local.moves and local.moves[0].put and isinstance(local.moves[0].put[0], int)):
        return [local]
    found = [replace(local, shape=local.shape[1:], moves=[]) for _ in range(local.shape[0])]
    for move in local.moves:
        expert, *rest = move.put
        assert isinstance(expert, int)
        found[expert].moves.append(replace(move, put=tuple(rest)))
    return found


def assemble(local: Local, read: Callable[[str], np.ndarray]) -> np.ndarray:
    """A process's tensor, in its stored dtype. `read`: HF name -> tensor."""
    target: np.ndarray | None = None
    for name, moves in groupby(local.moves, lambda move: move.source):
        source = read(name)
        target = _blank(local, source.dtype) if target is None else target
        for move in moves:
            move.there(source, target)
    return _blank(local, np.dtype(local.dtype)) if target is None else target  # a process may hold empty heads alone


def _blank(local: Local, dtype: np.dtype) -> np.ndarray:
    """Zeros where no move puts anything."""
    target = np.empty(local.shape, dtype)
    if sum(target[move.put].size for move in local.moves) < target.size:
        target[...] = 0
    return target


def _copy(target: np.ndarray, source: np.ndarray, turned: bool) -> None:
    if turned:
        put_turned(target, source)
    else:
        target[...] = source


def put_turned(target: np.ndarray, source: np.ndarray) -> None:
    """target[...] = source.T, bit for bit, block by block."""
    bits = f"u{source.dtype.itemsize}"
    target_bits, source_bits = target.view(bits), source.view(bits)
    block = np.empty((min(ROWS, len(source)), COLUMNS + PAD), bits)
    for first in range(0, source.shape[0], ROWS):
        for left in range(0, source.shape[1], COLUMNS):
            part = source_bits[first : first + ROWS, left : left + COLUMNS]
            held = block[: part.shape[0], : part.shape[1]]
            held[...] = part
            target_bits[left : left + COLUMNS, first : first + ROWS] = held.T


def check_divides(config: ModelConfig, mesh: Mesh) -> None:
    """Raises Unsupported."""
    sizes = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "moe_intermediate_size": config.moe_intermediate_size if config.moe_layers else 0,
        "intermediate_size": config.intermediate_size if len(config.moe_layers) < config.num_hidden_layers else 0,
        "shared_expert_intermediate_size": config.shared_expert_intermediate_size,
    }
    odd = [f"{name} {size} does not divide by tp {mesh.tp}" for name, size in sizes.items() if size % mesh.tp]
    if config.moe_layers and config.routing.num_experts % mesh.ep:
        odd.append(f"{config.routing.num_experts} experts do not divide by ep {mesh.ep}")
    if odd:
        raise Unsupported("; ".join(odd))


def heads_of(config: ModelConfig, mesh: Mesh) -> Heads:
    """Of the mesh's process."""
    return spread(config.num_attention_heads, config.num_key_value_heads, mesh.tp).of(mesh.tp_rank, mesh.tp)


class _Rules:
    """Where a process's share of a canonical tensor lies. `self._part(n)`: its slice of n rows or columns."""

    def __init__(self, config: ModelConfig, mesh: Mesh, fused: bool):
        self._config, self._mesh, self._heads, self._fused = config, mesh, heads_of(config, mesh), fused

    def shape(self, name: str) -> Tuple[int, ...]:
        config, tp, (_, part) = self._config, self._mesh.tp, _split(name)
        D, F, E, P = config.hidden_size, config.moe_intermediate_size // tp, config.routing.num_experts // self._mesh.ep, config.head_dim
        if part.split(".")[1] in ("q", "k", "v"):
            rows = sum(len(self._heads_of(each)) for each in ("qkv" if self._fused else part.split(".")[1])) * P
            return (rows, D) if part.endswith("weight") else (rows,)
        shared, dense = config.shared_expert_intermediate_size // tp, config.intermediate_size // tp
        return {
            "embed.weight": (config.vocab_size, D // tp),
            HEAD: (config.vocab_size // tp, D),
            "attention.o.weight": (D, len(self._heads.q) * P),
            "attention.q_norm.weight": (P,),
            "attention.k_norm.weight": (P,),
            "moe.router.weight": (config.routing.num_experts, D),
            "moe.router.correction_bias": (config.routing.num_experts,),
            "moe.gate_up.weight": (E, D, 2 * F),
            "moe.down.weight": (E, F, D),
            "moe.shared.gate_up.weight": (2 * shared, D),
            "moe.shared.down.weight": (D, shared),
            "moe.shared.gate.weight": (1, D),
            "mlp.gate_up.weight": (2 * dense, D),
            "mlp.down.weight": (D, dense),
        }.get(part, (D,))

    def moves(self, source: Placement) -> Iterator[Move]:
        """What this process takes of one HF tensor."""
        part = _split(source.name)[1]
        if part in ("moe.gate_up.weight", "moe.down.weight"):
            yield from self._expert(source)
        elif part.startswith("attention.") and part.split(".")[1] in ("q", "k", "v"):
            yield from self._projection(source, part.split(".")[1])
        elif part == "attention.o.weight":
            yield from self._output(source)
        elif part.endswith("gate_up.weight"):
            rows = self._part(source.shape[0])
            yield Move(source.source, (rows,), (_half(source, rows.stop - rows.start),))
        elif part == HEAD:
            yield Move(source.source, (self._part(source.shape[0]),), ())
        elif part == "embed.weight" or part.endswith("down.weight"):
            yield Move(source.source, (slice(None), self._part(source.shape[1])), ())
        else:
            yield Move(source.source, (), ())

    def _expert(self, source: Placement) -> Iterator[Move]:
        """HF's (F, D) gate and up stand beside each other as (D, 2F), its (D, F) down is turned."""
        held = self._config.routing.num_experts // self._mesh.ep
        e = source.region[0] - self._mesh.ep_rank * held
        if not 0 <= e < held:
            return
        if source.name.endswith("down.weight"):
            yield Move(source.source, (slice(None), self._part(source.shape[1])), (e,), turned=True)
        else:
            rows = self._part(source.shape[0])
            yield Move(source.source, (rows,), (e, slice(None), _half(source, rows.stop - rows.start)), turned=True)

    def _projection(self, source: Placement, part: str) -> Iterator[Move]:
        """Head by head: some are repeated, some are empty."""
        begin = sum(len(self._heads_of(each)) for each in "qkv".partition(part)[0]) if self._fused else 0
        for place, head in enumerate(self._heads_of(part), begin):
            if head != EMPTY:
                yield Move(source.source, (self._head(head),), (self._head(place),))

    def _output(self, source: Placement) -> Iterator[Move]:
        for place, head in enumerate(self._heads.q):
            if head != EMPTY:
                yield Move(source.source, (slice(None), self._head(head)), (slice(None), self._head(place)))

    def _heads_of(self, part: str) -> Tuple[int, ...]:
        return self._heads.q if part == "q" else self._heads.kv

    def _head(self, number: int) -> slice:
        P = self._config.head_dim
        return slice(number * P, (number + 1) * P)

    def _part(self, size: int) -> slice:
        share = size // self._mesh.tp
        return slice(self._mesh.tp_rank * share, (self._mesh.tp_rank + 1) * share)


def _half(source: Placement, rows: int) -> slice:
    """gate first, then up."""
    second = source.region[-1].start > 0
    return slice(rows, 2 * rows) if second else slice(0, rows)


def _split(name: str) -> Tuple[str, str]:
    """("layers.3.", "moe.down.weight")."""
    if not name.startswith("layers."):
        return "", name
    _, layer, part = name.split(".", 2)
    return f"layers.{layer}.", part
