"""Capsules: what goes in comes out, whatever its size; what is damaged or hostile is refused with a clear sentence."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from moe_harness.cases.synthetic import small
from moe_harness.diagnosis.rejudge import rejudge
from moe_harness.implementations.families.weights import canonical_shapes
from moe_harness.implementations.interface import ModelConfig
from moe_harness.judge.exhibit import BLOCK, RECORD, ROUTER, Exhibit
from moe_harness.judge.limit import Limit
from moe_harness.judge.metric import Metric
from moe_harness.repro.capsule import Capsule
from moe_harness.repro.fit import LIMIT, chosen_experts, fitted, size
from moe_harness.repro.storage import CapsuleError, read, write

IDENTITY = {
    "check": "BLOCK-01",
    "backend": "mine",
    "case": "mixtral",
    "dtype": "bfloat16",
    "title": "The block",
    "reason": "off",
    "node": "x::y",
}
LIMITS = {name: Limit(1e-3, 1e-2) for name in ("block_error", "worst_expert_error", "worst_token_error")}


def block(tokens: int = 7, error: float = 0.0, **changes: int) -> Exhibit:
    """A block that is right but for a factor."""
    config = small("mixtral", **changes)  # type: ignore[arg-type]
    draw = np.random.default_rng(0)
    shapes = {name: shape for name, shape in canonical_shapes(config).items() if ".moe." in name}
    tensors = {name: (draw.standard_normal(shape) / 8).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}
    x_TD = draw.standard_normal((tokens, config.hidden_size)).astype(np.float32)
    exhibit = Exhibit(BLOCK, config, "bfloat16", {"layer": 1, "pinned": False}, LIMITS, tensors, {})
    y_TD, _, ids_TK, _ = exhibit.oracle.moe_block(0, x_TD)
    arrays = {"x_TD": x_TD, "ids_TK": ids_TK, "y_TD": ((1 + error) * y_TD).astype(np.float32), "judged_T": np.ones(tokens, bool)}
    return replace(exhibit, arrays=arrays)


def capsule(exhibit: Exhibit, **changes) -> Capsule:
    metrics = (Metric("block_error", 0.5, 0.01, 0.001),)
    return Capsule({**IDENTITY, **changes}, metrics, "moe-harness run", exhibit, {"sha256": "0" * 64}, {"tokens": 7})


def test_a_round_trip_keeps_everything(tmp_path):
    exhibit = block(error=0.5)
    found = read(write(capsule(exhibit), tmp_path))
    assert found.identity == IDENTITY and found.metrics == capsule(exhibit).metrics and found.parameters == {"tokens": 7}
    assert found.exhibit.config == exhibit.config and found.exhibit.limits == exhibit.limits and found.exhibit.facts == exhibit.facts
    for kept, given in ((found.exhibit.tensors, exhibit.tensors), (found.exhibit.arrays, exhibit.arrays)):
        assert kept.keys() == given.keys()
        assert all(kept[name].dtype == given[name].dtype and kept[name].tobytes() == given[name].tobytes() for name in given)


def test_judged_anew_a_wrong_block_fails_and_a_right_one_passes(tmp_path):
    assert any(metric.violated for metric in rejudge(read(write(capsule(block(error=0.5)), tmp_path))))
    assert not any(metric.violated for metric in rejudge(capsule(block())))


def test_names_are_safe_and_different():
    names = {capsule(block(), backend=name).file_name() for name in ("a:b", "a/b", "a-b", "../../etc/passwd", "ä" * 300)}
    assert len(names) == 5
    assert all("/" not in name and not name.startswith(".") and name.isascii() and len(name) < 160 for name in names)


def test_a_block_that_is_too_large_keeps_the_experts_chosen_and_their_ids(tmp_path):
    exhibit = block(tokens=2, error=0.5, hidden_size=384, intermediate_size=384, moe_intermediate_size=384)
    assert size(exhibit) > LIMIT > size(chosen_experts(exhibit))
    found = read(write(capsule(exhibit), tmp_path))
    assert (tmp_path / capsule(exhibit).file_name()).stat().st_size <= LIMIT
    assert found.exhibit.experts == tuple(np.unique(exhibit.arrays["ids_TK"]))
    before, after = (rejudge(capsule(e)) for e in (exhibit, found.exhibit))
    assert [m.value for m in before] == pytest.approx([m.value for m in after])


def test_tokens_that_are_right_go_first_and_weights_last():
    exhibit = block(tokens=4000, hidden_size=512)
    wrong = exhibit.arrays["y_TD"].copy()
    wrong[1234] += 1
    exhibit = replace(exhibit, arrays={**exhibit.arrays, "y_TD": wrong})
    found = fitted(exhibit)
    assert 1234 in found.facts["kept_tokens"] and found.tensors
    expected = np.zeros_like(exhibit.arrays["y_TD"])
    without = fitted(replace(exhibit, arrays={**exhibit.arrays, "expected_TD": expected}), room=200_000)
    assert not without.tensors and len(without.arrays["expected_TD"]) == len(without.arrays["x_TD"])
    assert fitted(exhibit, room=10).kind == RECORD


def test_a_record_alone_is_a_capsule_too(tmp_path):
    found = read(write(capsule(Exhibit(RECORD)), tmp_path))
    assert found.exhibit.kind == RECORD and rejudge(found) == list(found.metrics)


def _resized(data: bytes, change) -> bytes:
    """The file with its JSON changed."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    capsule_json = json.loads(header["__metadata__"]["capsule"])
    change(capsule_json, header)
    header["__metadata__"]["capsule"] = json.dumps(capsule_json)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _set(*path, value):
    def change(capsule_json, header):
        place = capsule_json
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


HOSTILE = {
    "another schema": _set("schema", value=99),
    "another kind": _set("kind", value="pickle"),
    "no identity": _set("identity", value={}),
    "experts without end": _set("config", "routing", "num_experts", value=10**9),
    "a hidden size that fills the memory": _set("config", "hidden_size", value=2**23),
    "negative sizes": _set("config", "head_dim", value=-1),
    "sizes that are texts": _set("config", "vocab_size", value="many"),
    "more experts chosen than there are": _set("config", "routing", "top_k", value=99),
    "a family of nobody": _set("config", "family", value="nobody"),
    "an unknown field": _set("config", "surprise", value=1),
    "an unknown rule of routing": _set("config", "routing", "surprise", value=1),
    "another dtype": _set("dtype", value="int4"),
    "experts twice": _set("experts", value=[0, 0]),
    "no limits": _set("limits", value={}),
    "limits that are no numbers": _set("limits", "block_error", value=["a", "b"]),
    "metrics that are no metrics": _set("metrics", value=[1]),
    "layers that are none": _set("config", "moe_layers", value=[7]),
    "groups that cannot be counted": lambda c, h: c["config"]["routing"].update(num_experts=64, num_groups=64, top_groups=32),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers_are_refused(what, tmp_path):
    path = write(capsule(block()), tmp_path)
    path.write_bytes(_resized(path.read_bytes(), HOSTILE[what]))
    with pytest.raises(CapsuleError, match="BLOCK-01.*: "):
        read(path)


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"PK\x03\x04 a pickle", struct.pack("<Q", 2**60) + b"{}"])
def test_what_is_no_capsule_is_refused(data, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(CapsuleError, match="not a capsule"):
        read(path)


def test_truncated_oversized_and_missing_files_are_refused(tmp_path):
    path = write(capsule(block()), tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CapsuleError, match="not a capsule"):
        read(path)
    path.write_bytes(b"0" * (LIMIT + 1))
    with pytest.raises(CapsuleError, match="at most"):
        read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere.safetensors")


def test_ids_out_of_range_and_shapes_that_do_not_fit_are_refused(tmp_path):
    exhibit = block()
    for name, array in (("ids_TK", exhibit.arrays["ids_TK"] + 99), ("y_TD", np.zeros((7, 3), np.float32)), ("ids_TK", np.zeros((7, 3)))):
        path = write(capsule(replace(exhibit, arrays={**exhibit.arrays, name: array})), tmp_path)
        with pytest.raises(CapsuleError, match="damaged"):
            read(path)


def test_a_router_keeps_its_tokens_and_drops_the_second_input_when_large():
    exhibit = block(tokens=3)
    tensors = {name: tensor for name, tensor in exhibit.tensors.items() if "router" in name}
    x_TD = np.zeros((5000, 64), np.float32)
    config: ModelConfig | None = exhibit.config
    assert config is not None
    answers = {"x_TD": x_TD, "ids_TK": np.tile([5, 6, 7], (5000, 1)), "weights_TK": np.ones((5000, 3), np.float32)}
    arrays = {**answers, **{f"second.{name}": array for name, array in answers.items()}}
    found = fitted(Exhibit(ROUTER, config, "float32", {"layer": 0, "exact": True}, {}, tensors, arrays), room=100_000)
    assert len(found.arrays["x_TD"]) == 16 and not any(name.startswith("second.") for name in found.arrays)
