"""The worker's messages: what crosses comes out as it went in, and nothing that is not a message is taken for one."""

from __future__ import annotations

import json
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moe_harness.implementations import interface
from moe_harness.implementations.interface import CheckpointError, InvalidInput, LoadSpec, PinnedRouting, Request, Routing, Unsupported
from moe_harness.implementations.worker import RemoteError, errors, values, wire

DTYPES = st.one_of(hnp.boolean_dtypes(), hnp.integer_dtypes(endianness="?"), hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)))
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
VALUES = st.recursive(
    PLAIN | ARRAYS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


def there(value: Any) -> Any:
    """`value` after a way through a socket."""
    arrays: list[np.ndarray] = []
    header = {"value": values.encode(value, arrays)}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=wire.send, args=(ours, header, arrays))
        sender.start()
        got, got_arrays = wire.receive(theirs)
        sender.join()
    return values.decode(got["value"], got_arrays)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    return bool(a == b or (a != a and b != b))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(VALUES)
def test_values_cross_unchanged(value):
    assert same(there(value), value)


def test_the_comparison_of_this_file_can_fail():
    assert not same([1, (2.0,)], [1, [2.0]]) and not same(np.zeros(2), np.zeros(2, np.float32)) and not same(True, 1)


def test_dataclasses_of_the_contract_cross_field_by_field():
    ids = np.arange(12).reshape(1, 4, 3)
    request = Request("all", True, "left", PinnedRouting(ids, np.full((1, 4, 3), 0.5, np.float32)))
    found = there(request)
    assert (found.logits, found.routing, found.padding) == ("all", True, "left") and same(found.pinned.topk_ids_LTK, ids)
    assert there(LoadSpec(options={"a": "b"})) == LoadSpec(options={"a": "b"})
    routing = there(Routing(ids, ids.astype(np.float32)))
    assert routing.router_logits_LTE is None and same(routing.topk_ids_LTK, ids)


def test_every_dataclass_of_the_contract_is_known():
    names = {name for name, thing in vars(interface).items() if hasattr(thing, "__dataclass_fields__")}
    assert set(values._dataclasses()) == names >= {"Capabilities", "ModelConfig", "StepOutput"}


def test_a_subclass_crosses_as_what_the_contract_knows():
    @dataclass(frozen=True)
    class MyRequest(Request):
        private: object = None

    assert there(MyRequest(logits="none", private=object())) == Request(logits="none")


def test_views_cross_in_c_order_and_arrive_writable():
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1)[::-1]
    found = there(array)
    assert np.array_equal(found, array) and found.flags.c_contiguous and found.flags.writeable


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, np.array(["a"]), np.array([None]), np.zeros(2, "V2"), np.zeros(1, complex), int])
def test_what_is_not_of_the_contract_does_not_cross(value):
    with pytest.raises(TypeError, match="cannot cross"):
        values.encode([value], [])


def message(header: Any, tail: bytes = b"", magic: bytes = wire.MAGIC) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<4sI", magic, len(text)) + text + tail


def array(dtype: Any = "<f4", shape: Any = (2,)) -> bytes:
    return message({"arrays": [{"dtype": dtype, "shape": shape}]}, bytes(8))


MALFORMED = {
    "noise": b"HTTP/1.1 200 OK",
    "another version": message({"arrays": []}, magic=b"moe2"),
    "a header of 4 GiB": struct.pack("<4sI", wire.MAGIC, 2**32 - 1),
    "not JSON": message(b"{'a': 1}"),
    "not UTF-8": message(b"\xff\xfe"),
    "NaN": message(b'{"arrays": [], "a": NaN}'),
    "deep": message(b"[" * 200_000),
    "not an object": message([1]),
    "no arrays": message({}),
    "arrays of another kind": message({"arrays": {"0": 1}}),
    "too many arrays": message({"arrays": [{"dtype": "|u1", "shape": [0]}] * (wire.MAX_ARRAYS + 1)}),
    "array without a dtype": message({"arrays": [{"shape": [1]}]}),
    "object array": array("|O"),
    "void": array("<V2"),
    "text": array("<U2"),
    "a dtype that runs away": array("f4,(9999999,)f8"),
    "no such float": array("|f1"),
    "long double": array("<f16"),
    "negative size": array(shape=[-1]),
    "fractional size": array(shape=[1.5]),
    "boolean size": array(shape=[True]),
    "a shape that is a number": array(shape=3),
    "rank": array(shape=[1] * 33),
    "too large": array(shape=[2**34]),
    "a product that overflows 64 bits": array(shape=[2**32, 2**32, 2**32]),
    "an empty array that cannot be made": array(shape=[2**35, 2**35, 0]),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_messages_are_refused(what):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=_send_and_close, args=(ours, MALFORMED[what]))
        sender.start()
        with pytest.raises(wire.ProtocolError):
            wire.receive(theirs)
        theirs.close()
        sender.join()


def _send_and_close(connection: socket.socket, content: bytes) -> None:
    with suppress(OSError):  # the reader may have seen enough
        connection.sendall(content)


@pytest.mark.parametrize("cut", [0, 3, 8, 20, -1])
def test_a_message_cut_short_is_the_end_of_the_connection(cut):
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(array()[:cut])
        with pytest.raises(EOFError):
            wire.receive(theirs)


@pytest.mark.parametrize(
    "value",
    [{}, {"array": 0}, {"array": -1}, {"array": True}, {"array": "0"}, {"float": "1"}, {"tuple": 3}, {"dict": [[1]]}, {"dict": [[[], 1]]},
     {"object": 1}, {"Request": {"unknown": 1}}, {"Request": []}, {"a": 1, "b": 2}, {"os": {}}, {"ModelConfig": {}}],
)  # fmt: skip
def test_malformed_values_are_refused(value):
    with pytest.raises(wire.ProtocolError):
        values.decode([value], [])


def test_a_message_over_the_limits_is_not_sent(monkeypatch):
    monkeypatch.setattr(wire, "MAX_BYTES", 7)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ValueError, match="over the worker's limits"):
            wire.send(ours, {}, [np.zeros(8, np.uint8)])
        ours.close()
        assert theirs.recv(1) == b""


def crossed(error: Exception) -> Exception:
    try:
        raise error
    except Exception as raised:  # noqa: BLE001
        return errors.rebuild(json.loads(json.dumps(errors.describe(raised))))


@pytest.mark.parametrize(
    "error", [Unsupported("no"), InvalidInput("bad"), ValueError("v"), AssertionError("a"), KeyError("k"), AssertionError()]
)
def test_exceptions_cross_by_kind_with_their_traceback(error):
    found = crossed(error)
    assert type(found) is type(error) and str(found) == str(error)
    assert "in crossed" in str(found.__cause__)


def test_checkpoint_errors_keep_path_and_tensor():
    found = crossed(CheckpointError("a/b", "is damaged", "w1"))
    assert isinstance(found, CheckpointError) and (found.path, found.tensor) == ("a/b", "w1")
    assert str(found) == str(CheckpointError("a/b", "is damaged", "w1"))


def test_subclasses_cross_as_their_base_and_say_what_they_were():
    found = crossed(UnicodeDecodeError("utf-8", b"", 0, 1, "why"))
    assert type(found) is ValueError and str(found).startswith("UnicodeDecodeError: ")


def test_what_has_no_counterpart_is_a_remote_error_with_the_far_traceback():
    found = crossed(ZeroDivisionError("by zero"))
    assert isinstance(found, RemoteError) and "ZeroDivisionError: by zero" in str(found) and "in crossed" in str(found)
