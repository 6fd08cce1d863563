"""A model over several processes is the model: logits, routing and cache. What goes wrong between them shows, and a lost one is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_harness.implementations.interface import CheckpointError, GenerationSpec, LoadSpec, Request, StepOutput
from moe_harness.implementations.neuron.backend import backend
from moe_harness.implementations.neuron.mesh import Degrees
from moe_harness.implementations.neuron.settings import Variant
from moe_harness.implementations.tests.tiny import tiny_checkpoint
from moe_harness.implementations.tests.wrong_neuron import WRONGS, serve

pytest.importorskip("torch")
crew: Any = pytest.importorskip("moe_harness.implementations.neuron.crew")
ROUNDINGS = 2e-5  # of float32, of logits of unit size
SPEC = LoadSpec(max_batch=2, max_length=32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Biases, a gated shared expert, a dense layer, and key heads that two processes share."""
    root = tmp_path_factory.mktemp("mesh")
    tiny_checkpoint(root / "hf", "qwen2_moe", num_experts=12, num_key_value_heads=2)
    return root / "hf"


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> list[StepOutput]:
    return outputs(backend().load(str(checkpoint), SPEC))


def outputs(model: Any) -> list[StepOutput]:
    """A ragged prompt, two tokens, a further chunk."""
    ids, ask = np.random.default_rng(0).integers(3, 96, (2, 9)), Request("all", routing=True)
    try:
        steps = [model.prefill(ids, np.array([9, 4]), ask), model.decode(np.array([5, 6]), ask), model.decode(np.array([7, 8]), ask)]
        return [*steps, model.prefill(ids[:, :3], np.array([2, 3]), ask)]
    finally:
        model.close()


def far(found: list[StepOutput], wanted: list[StepOutput]) -> float:
    """The largest difference of a logit, inf where another expert was chosen."""
    largest = 0.0
    for a, b in zip(found, wanted, strict=True):
        mask = b.routing.mask_T
        same = (np.sort(a.routing.topk_ids_LTK[:, mask]) == np.sort(b.routing.topk_ids_LTK[:, mask])).all()
        logits = [each.logits_BSV.reshape(len(mask), -1)[mask] for each in (a, b)]
        largest = max(largest, float(np.abs(logits[0] - logits[1]).max()) if same else np.inf)
    return largest


@pytest.mark.parametrize("variant", ["tp2", "ep2", "tp2,ep2,blockwise", "tp4,ep4,selective"])
def test_a_split_model_is_the_model(checkpoint: Path, alone: list[StepOutput], variant: str):
    assert far(outputs(backend(variant).load(str(checkpoint), SPEC)), alone) < ROUNDINGS


@pytest.mark.parametrize("wrong", WRONGS)
def test_what_goes_wrong_between_processes_shows(checkpoint: Path, alone: list[StepOutput], wrong: str):
    from moe_harness.implementations.neuron.start import together

    tp, ep = (2, 1) if wrong != "rank-offset" else (1, 2)
    own = crew.Crew(Degrees(tp, ep), partial(serve, wrong))
    try:
        assert far(outputs(together(str(checkpoint), Variant(tp, ep), SPEC, own)), alone) > 100 * ROUNDINGS
    finally:
        own.close()


def test_converted_weights_are_each_process_its_own(checkpoint: Path, alone: list[StepOutput], tmp_path: Path):
    made = backend("tp2,ep2")
    made.from_hf(str(checkpoint), str(tmp_path / "neuron"))
    assert far(outputs(made.load(str(tmp_path / "neuron"), SPEC)), alone) < ROUNDINGS


def test_what_a_process_cannot_load_is_raised_here(tmp_path: Path):
    with pytest.raises(CheckpointError, match="not a directory"):
        backend("tp2").load(str(tmp_path / "nothing"), SPEC)


def test_a_lost_process_is_said(checkpoint: Path, alone: list[StepOutput]):
    model: Any = backend("tp2").load(str(checkpoint), SPEC)
    assert model.alive
    os.kill(model._engine._crew._processes[1].pid, signal.SIGKILL)
    with pytest.raises(crew.Lost, match="process 1 died of SIGKILL"):
        model.prefill(np.ones((1, 4), np.int64), np.array([4]), Request())
    assert not model.alive
    model.close()
    assert far(outputs(backend("tp2").load(str(checkpoint), SPEC)), alone) < ROUNDINGS  # by processes of its own


def test_models_share_their_processes(checkpoint: Path):
    models: list[Any] = [backend("tp2").load(str(checkpoint), SPEC) for _ in range(2)]
    prompt = np.arange(3, 9)[None], np.array([6]), Request()
    before = models[0].prefill(*prompt).logits_BSV
    models[1].prefill(np.arange(5, 9)[None], np.array([4]), Request())
    assert models[0]._engine._crew is models[1]._engine._crew
    models[1].close()
    models[0].reset()
    assert (models[0].prefill(*prompt).logits_BSV == before).all()


def test_torchrun_generates_what_one_process_does(checkpoint: Path):
    model: Any = backend().load(str(checkpoint), SPEC)
    wanted = model.generate(np.array([[5, 6, 7]]), np.array([3]), GenerationSpec(6))[0]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    asked = [
        "-m",
        "moe_harness.implementations.neuron.torchrun",
        str(checkpoint),
        "--tp",
        "2",
        "--ep",
        "2",
        "--tokens",
        "6",
        "--prompt",
        "5",
        "6",
        "7",
    ]
    done = subprocess.run([*launch, *asked], capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == wanted and len(wanted) > 1
