"""Damage that nobody thought of: whatever happens to a directory, opening it succeeds or raises CheckpointError, never anything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_harness.implementations.checkpoint.checkpoint import Checkpoint, parse_config
from moe_harness.implementations.interface import CheckpointError
from moe_harness.implementations.tests.test_checkpoint_good import (
    INDEX,
    MIXTRAL_LEGACY,
    QWEN_CURRENT,
    SINGLE,
    random_tensors,
    write_directory,
)

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5
)
HUGE = st.sampled_from([2**31, 10**18, 10**400])


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_directory(tmp_path_factory.mktemp("fuzz") / "single", MIXTRAL_LEGACY, random_tensors(MIXTRAL_LEGACY))


def read_all(path: Path) -> bool:
    """Whether the directory opens; then every tensor must be readable or raise CheckpointError."""
    try:
        with Checkpoint(path) as checkpoint:
            for name in checkpoint.names():
                assert checkpoint.tensor(name).shape == checkpoint.shape(name)
    except CheckpointError:
        return False
    return True


def replace_bytes(path: Path, content: bytes) -> None:
    """By a new file: the old one may still be mapped into memory, and rewriting a mapped file is not what is tested here."""
    path.unlink()
    path.write_bytes(content)


@settings(max_examples=150, deadline=None)
@given(raw=st.sampled_from([MIXTRAL_LEGACY, QWEN_CURRENT]), data=st.data())
def test_any_value_in_any_config_field(raw, data):
    key = data.draw(st.sampled_from(sorted(raw)))
    value = data.draw(JSON | HUGE)
    try:
        _, config = parse_config({**raw, key: value}, "config.json")
    except CheckpointError as error:
        assert str(error).startswith("config.json: config field ")
    else:
        assert config.num_hidden_layers >= len(config.moe_layers) and config.routing.top_k <= config.routing.num_experts


@settings(max_examples=60, deadline=None)
@given(value=JSON | st.dictionaries(st.sampled_from(["weight_map", "metadata"]), JSON))
def test_any_json_as_an_index(tmp_path_factory, value):
    path = write_directory(tmp_path_factory.mktemp("fuzz") / "m", MIXTRAL_LEGACY, {})
    (path / SINGLE).unlink()
    (path / INDEX).write_text(json.dumps(value))
    assert not read_all(path)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_does_not_open(single, data):
    whole = (single / SINGLE).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    size = data.draw(st.integers(0, header) | st.integers(0, len(whole) - 1))
    try:
        replace_bytes(single / SINGLE, whole[:size])
        assert not read_all(single)
    finally:
        replace_bytes(single / SINGLE, whole)
    assert read_all(single)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_header_is_refused_or_harmless(single, data):
    whole = bytearray((single / SINGLE).read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    damaged = whole.copy()
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    try:
        replace_bytes(single / SINGLE, bytes(damaged))
        read_all(single)
    finally:
        replace_bytes(single / SINGLE, bytes(whole))
