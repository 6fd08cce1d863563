"""A backend in another process, or under another interpreter (vendor SDKs pin torch, numpy and Python). POSIX only.

Near side: `WorkerBackend` starts `PYTHON -m moe_harness.implementations.worker` and speaks with it over a socket pair. Far side:
standard library, numpy and Python >= 3.9; it needs no installation of ours, since the near side lends it our package of backends and
nothing else (`lending.py`).

The wire (`wire.py`, `values.py`). Strict alternation of messages: the far side's greeting (call 0), then request and reply. A message is

    4 bytes   b"moe1"
    4 bytes   length of the header, unsigned, little-endian
    header    a JSON object, UTF-8
    arrays    the bytes of the arrays that `header["arrays"]` lists as {"dtype": "<f4", "shape": [2, 3]}, in order, C order, no padding

- request: {"call": n, "object": id, "method": name, "args": list, "kwargs": dict, "release": [ids that the near side dropped]}
- reply:   {"call": n, "seconds": s, "result": value}, or "made": {"object": id, "kind": "model", "methods": [...]} for a thing that stays
  on the far side, or "error": {"kind", "message", "traceback", "path", "tensor"}. `seconds`: wall-clock time of the method itself. What the
  greeting made has also "contract", the version that is spoken over there: another major version is refused.

Object 0 is the backend. None, booleans, numbers, strings and lists are JSON's own; everything else is an object with one key: array, bytes,
tuple, dict, float (nan, inf, -inf), or the name of a dataclass of `moe_harness.interface`. There is no pickle: nothing that arrives can
run code. Lengths, counts and dtypes are checked before anything is allocated.
"""

from moe_harness.implementations.worker.errors import RemoteError, WorkerCrashed, WorkerTimeout
from moe_harness.implementations.worker.interpreter import BadInterpreter
from moe_harness.implementations.worker.near import DEFAULT_TIMEOUT, WorkerBackend

__all__ = ["DEFAULT_TIMEOUT", "BadInterpreter", "RemoteError", "WorkerBackend", "WorkerCrashed", "WorkerTimeout"]
