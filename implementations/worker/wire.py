"""Messages over a stream socket: a JSON header and raw arrays. The format is in the docstring of `moe_harness.implementations.worker`."""

from __future__ import annotations

import json
import re
import socket
import struct
from typing import Any, Callable, Dict, List, NoReturn, Tuple

import numpy as np

MAGIC, PREFIX = b"moe1", struct.Struct("<4sI")
MAX_HEADER = 1 << 24  # 16 MiB: generated ids and text, never tensors
MAX_ARRAYS, MAX_RANK = 1 << 12, 32
MAX_BYTES = 1 << 35  # 32 GiB: all logits of eight rows of 4096 tokens, vocabulary 152 k, are 20 GB
NUMBER = re.compile(r"\|[biu]1|[<>](?:[iu]|f)[248]")  # np.dtype.str of booleans, integers and floats that every machine has

Header = Dict[str, Any]
Tick = Callable[[bool], None]


class ProtocolError(Exception):
    """What arrived is not a message of this protocol. The connection cannot be used any more."""


def never(stalled: bool) -> None:
    """The tick of a side that waits for ever."""


def sendable(array: np.ndarray) -> bool:
    return array.ndim <= MAX_RANK and NUMBER.fullmatch(array.dtype.str) is not None


def send(connection: socket.socket, header: Header, arrays: List[np.ndarray], tick: Tick = never) -> None:
    """Writes one message. `tick` is called after every piece, with False, and on a socket with a timeout whenever nothing could be written
    in that time, with True; it may raise.

    Raises ValueError for a message over the limits, before anything is written, and OSError where the other side is gone."""
    listed = [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in arrays]
    text = json.dumps({**header, "arrays": listed}, allow_nan=False).encode("ascii")
    if len(text) > MAX_HEADER or len(arrays) > MAX_ARRAYS or sum(array.nbytes for array in arrays) > MAX_BYTES:
        raise ValueError(f"a message of {len(text)} header bytes and {len(arrays)} arrays is over the worker's limits")
    _write(connection, memoryview(PREFIX.pack(MAGIC, len(text)) + text), tick)
    for array in arrays:
        _write(connection, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, tick)


def receive(connection: socket.socket, tick: Tick = never) -> Tuple[Header, List[np.ndarray]]:
    """Reads one message. Raises EOFError or OSError where the other side is gone, ProtocolError for anything that is not a message."""
    magic, length = PREFIX.unpack(_read(connection, PREFIX.size, tick))
    if magic != MAGIC:
        raise ProtocolError(f"expected a message, got bytes that begin with {magic!r}")
    if length > MAX_HEADER:
        raise ProtocolError(f"a header of {length} bytes, at most {MAX_HEADER} are allowed")
    header = _parse(bytes(_read(connection, length, tick)))
    arrays = _allocate(_listed(header))
    for array in arrays:
        _fill(connection, array.reshape(-1).view(np.uint8).data, tick)
    return header, arrays


def _parse(text: bytes) -> Header:
    try:
        header = json.loads(text.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ProtocolError(f"the header is a {type(header).__name__}, not an object")
    return header


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _listed(header: Header) -> List[Tuple[np.dtype, Tuple[int, ...]]]:
    """(dtype, shape) of the arrays that follow, all checked before the first is allocated."""
    listed = header.get("arrays")
    if not isinstance(listed, list) or len(listed) > MAX_ARRAYS:
        raise ProtocolError(f"expected a list of at most {MAX_ARRAYS} arrays in the header")
    found = [_array(item) for item in listed]
    total = sum(_size(dtype, shape) for dtype, shape in found)
    if total > MAX_BYTES:
        raise ProtocolError(f"arrays of {total} bytes, at most {MAX_BYTES} are allowed")
    return found


def _allocate(listed: List[Tuple[np.dtype, Tuple[int, ...]]]) -> List[np.ndarray]:
    try:
        return [np.empty(shape, dtype) for dtype, shape in listed]
    except (ValueError, MemoryError) as error:
        raise ProtocolError(f"arrays that cannot be made: {error}") from error


def _array(item: Any) -> Tuple[np.dtype, Tuple[int, ...]]:
    dtype, shape = (item.get("dtype"), item.get("shape")) if isinstance(item, dict) else (None, None)
    if not isinstance(dtype, str) or not NUMBER.fullmatch(dtype):
        raise ProtocolError(f"an array of dtype {dtype!r}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(type(size) is int and 0 <= size <= MAX_BYTES for size in shape):
        raise ProtocolError(f"an array of shape {shape!r}")
    return np.dtype(dtype), tuple(shape)


def _size(dtype: np.dtype, shape: Tuple[int, ...]) -> int:
    """Bytes, in Python's integers: numpy's would wrap around."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    return size


def _write(connection: socket.socket, view: memoryview, tick: Tick) -> None:
    while len(view):
        try:
            view = view[connection.send(view) :]
        except socket.timeout:
            tick(True)
        else:
            tick(False)


def _read(connection: socket.socket, size: int, tick: Tick) -> bytearray:
    buffer = bytearray(size)
    _fill(connection, memoryview(buffer), tick)
    return buffer


def _fill(connection: socket.socket, view: memoryview, tick: Tick) -> None:
    while len(view):
        try:
            got = connection.recv_into(view)
        except socket.timeout:
            tick(True)
            continue
        if not got:
            raise EOFError("the other side closed the connection")
        view = view[got:]
        tick(False)
