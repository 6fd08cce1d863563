"""Values of the contract as JSON and arrays, and back. Dataclasses of `moe_harness.interface` cross field by field, so a new one, or a
new field, needs nothing here."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Callable, Dict, List, Mapping

import numpy as np

from moe_harness.implementations import interface
from moe_harness.implementations.worker.wire import ProtocolError, sendable

Arrays = List[np.ndarray]


def encode(value: Any, arrays: Arrays) -> Any:
    """JSON for `value`; its arrays are appended to `arrays`. numpy's scalars become Python's, a subclass of a contract's dataclass becomes
    that dataclass. Raises TypeError for anything else, arrays of strings and objects included."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    if isinstance(value, np.ndarray):
        return {"array": _append(value, arrays)}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": _append(np.frombuffer(value, np.uint8), arrays)}
    if isinstance(value, (list, tuple)):
        items = [encode(item, arrays) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping):
        return {"dict": [[encode(key, arrays), encode(item, arrays)] for key, item in value.items()]}
    return _encode_dataclass(value, arrays)


def _append(array: np.ndarray, arrays: Arrays) -> int:
    if not sendable(array):
        raise TypeError(f"an array of dtype {array.dtype} and rank {array.ndim} cannot cross to or from a worker")
    arrays.append(array)
    return len(arrays) - 1


def _encode_dataclass(value: Any, arrays: Arrays) -> Dict[str, Any]:
    known = _dataclasses()
    kind = next((base for base in type(value).__mro__ if known.get(base.__name__) is base), None)
    if kind is None:
        raise TypeError(
            f"a {type(value).__module__}.{type(value).__qualname__} cannot cross to or from a worker: it is not of the contract"
        )
    return {kind.__name__: {field.name: encode(getattr(value, field.name), arrays) for field in dataclasses.fields(kind)}}


def _dataclasses() -> Dict[str, type]:
    mine = (thing for thing in vars(interface).values() if isinstance(thing, type) and thing.__module__ == interface.__name__)
    return {kind.__name__: kind for kind in mine if dataclasses.is_dataclass(kind)}


def decode(value: Any, arrays: Arrays) -> Any:
    """The inverse of `encode`. Raises ProtocolError for anything that `encode` does not make."""
    if isinstance(value, list):
        return [decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ProtocolError(f"expected an object of one key, got {sorted(value)}")
    ((tag, content),) = value.items()
    try:
        return _decode_tagged(tag, content, arrays)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ProtocolError(f"a malformed {tag!r}: {error}") from error


def _decode_tagged(tag: str, content: Any, arrays: Arrays) -> Any:
    decoders: Dict[str, Callable[[], Any]] = {
        "array": lambda: arrays[_index(content)],
        "bytes": lambda: arrays[_index(content)].tobytes(),
        "float": lambda: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content],
        "tuple": lambda: tuple([decode(item, arrays) for item in content]),
        "dict": lambda: {decode(key, arrays): decode(item, arrays) for key, item in content},
    }
    if tag in decoders:
        return decoders[tag]()
    kind = _dataclasses().get(tag)
    if kind is None:
        raise ProtocolError(f"an unknown value {tag!r}")
    return kind(**{name: decode(item, arrays) for name, item in content.items()})


def _index(content: Any) -> int:
    if type(content) is not int or content < 0:
        raise ValueError(f"{content!r} is not the number of an array")
    return content
