"""Values in JSON's types, without loss."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any


def json_safe(value: Any, where: str = "value") -> Any:
    """`value` in JSON's types. Raises ValueError naming `where` for anything that has no faithful form."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_safe(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted((json_safe(item, where) for item in value), key=str)
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # numpy scalars and arrays, ml_dtypes included, without importing numpy
        plain = value.tolist()
        return json_safe(plain if type(plain) is not type(value) else float(value), where)  # a longdouble's list is itself
    return _subclass_safe(value, where)


def _subclass_safe(value: Any, where: str) -> Any:
    if isinstance(value, os.PathLike):
        return str(value)
    for plain in (int, float, str):
        if isinstance(value, plain):  # IntEnum, StrEnum, np.float64
            return json_safe(plain(value), where)
    raise ValueError(f"{where}: {type(value).__name__} has no form in a record")
