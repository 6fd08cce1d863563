"""What a fused MoE function may ask for, by the names of its parameters."""

from __future__ import annotations

import inspect
from typing import Any, Callable, Dict, Tuple

from moe_harness.implementations.interface import InvalidInput, KernelCall

# name -> (shape, meaning). T tokens, K top-k, E experts, D hidden, F expert FFN. "dtype" is the dtype under test.
ARGUMENTS: Dict[str, Tuple[str, str]] = {
    "x": ("(T, D) dtype", "hidden states, one row a token; T may be 0"),
    "topk_ids": ("(T, K) int64", "the experts chosen for every token"),
    "topk_weights": ("(T, K) float32", "their weights, used as they are"),
    "router_logits": ("(T, E) dtype", "instead of ids and weights: before softmax, with a clear gap behind the K-th"),
    "top_k": ("int", "K"),
    "renormalize": ("bool", "whether the K selected scores are divided by their sum"),
    "w_gate_up": ("(E, 2F, D) dtype", "gate in the first F rows, up in the last"),
    "w_gate": ("(E, F, D) dtype", "the gate half alone, a view of w_gate_up"),
    "w_up": ("(E, F, D) dtype", "the up half alone, a view of w_gate_up"),
    "w_down": ("(E, D, F) dtype", "y = sum over K of weight * w_down @ (silu(w_gate @ x) * (w_up @ x))"),
}
ROUTES_ITSELF = "router_logits"
NEEDED = (("x",), ("topk_ids", ROUTES_ITSELF), ("topk_weights", ROUTES_ITSELF), ("w_gate_up", "w_gate"), ("w_gate_up", "w_up"), ("w_down",))


def requested(function: Callable[..., Any]) -> Tuple[str, ...]:
    """The arguments that `function` asks for. Parameters of other names keep their defaults.

    Raises InvalidInput for one without a default, listing what there is, and for a function that cannot compute an MoE block from what it
    asks for.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"its parameters cannot be read ({error}); wrap it in a function that names them:\n{table()}") from error
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    unknown = [p.name for p in named if p.name not in ARGUMENTS and p.default is p.empty] + positional
    if unknown:
        raise InvalidInput(f"it asks for {', '.join(unknown)}, which cannot be given by name; what there is:\n{table()}")
    asked = tuple(p.name for p in named if p.name in ARGUMENTS)
    missing = [" or ".join(choice) for choice in NEEDED if not set(choice) & set(asked)]
    if missing:
        raise InvalidInput(f"it does not ask for {', '.join(dict.fromkeys(missing))}; what there is:\n{table()}")
    return asked


def table() -> str:
    """ARGUMENTS as lines of text."""
    return "\n".join(f"  {name:<14} {shape:<17} {meaning}" for name, (shape, meaning) in ARGUMENTS.items())


def keywords(asked: Tuple[str, ...], call: KernelCall, inputs: Dict[str, Any], weights: Dict[str, Any]) -> Dict[str, Any]:
    """The keyword arguments of one call. `inputs`, `weights`: arrays by name, in whatever library's form; halves are views."""
    gate_up, F = weights["w_gate_up"], weights["w_down"].shape[2]
    values = {**inputs, **weights, "w_gate": gate_up[:, :F], "w_up": gate_up[:, F:]}
    values |= {"top_k": call.topk_ids_TK.shape[1], "renormalize": call.renormalize}
    return {name: values[name] for name in asked}
