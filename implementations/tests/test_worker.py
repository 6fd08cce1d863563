"""A backend behind a worker answers as it does in this process: bits, errors, protocols, several models."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any, Dict

import numpy as np
import pytest

from moe_harness import interface as public
from moe_harness.implementations.interface import (
    Capabilities,
    CheckpointError,
    Generate,
    InvalidInput,
    LoadSpec,
    Packed,
    Probe,
    Request,
    RouterBuilder,
    RouterWeights,
    RoutingSpec,
    Unsupported,
)
from moe_harness.implementations.registry import BrokenBackend, UnknownBackend, check_contract
from moe_harness.implementations.tests.tiny import tiny_checkpoint
from moe_harness.implementations.tests.toy_backend import ToyBackend
from moe_harness.implementations.worker import RemoteError, WorkerBackend, WorkerCrashed, near

TOY = "moe_harness.implementations.tests.toy_backend:backend"
EVERYTHING = Request(logits="all", routing=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "checkpoint"
    tiny_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def toy():
    made = WorkerBackend(TOY)
    yield made
    made.close()


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module into the current directory, where a user's own backend lies, and gives it a worker."""
    made = []

    def make(**modules: str) -> WorkerBackend:
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(dedent(text))
        monkeypatch.chdir(tmp_path)
        made.append(WorkerBackend(f"{next(iter(modules))}:backend", timeout=20))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def batch() -> Dict[str, Any]:
    return {"input_ids_BS": np.arange(16).reshape(2, 8) + 3, "lengths_B": np.array([8, 5]), "request": EVERYTHING}


def test_bits_are_those_of_this_process(toy, checkpoint):
    here, there = (made.load(str(checkpoint), LoadSpec()) for made in (ToyBackend(), toy))
    x_TD = np.random.default_rng(0).standard_normal((5, here.config.hidden_size)).astype(np.float32)
    for call in (
        lambda model: model.prefill(**batch()).logits_BSV,
        lambda model: model.decode(np.array([4, 5]), EVERYTHING).logits_BSV,
        lambda model: model.decode(np.array([6, 7]), EVERYTHING).routing.topk_ids_LTK,
        lambda model: model.route(0, x_TD).router_logits_LTE,
        lambda model: model.moe_block(2, x_TD),
        lambda model: model.moe_block(0, x_TD[:0]),
    ):
        ours, theirs = call(here), call(there)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape) and ours.tobytes() == theirs.tobytes()
    assert there.capabilities() == here.capabilities()


def test_capabilities_say_what_runs_there(toy):
    declared = toy.capabilities()
    assert declared.execution_note == f"worker: Python {sys.version.split()[0]}, numpy {np.__version__}"
    assert declared.features == ToyBackend().capabilities().features


def test_isinstance_tells_what_the_far_model_has(toy, checkpoint):
    model = toy.load(str(checkpoint), LoadSpec())
    assert isinstance(model, Probe) and not isinstance(model, Generate) and not isinstance(model, Packed)
    assert not isinstance(toy, RouterBuilder)


def test_models_of_one_worker_are_apart(toy, checkpoint):
    one, other = (toy.load(str(checkpoint), LoadSpec()) for _ in range(2))
    one.prefill(**batch())
    with pytest.raises(InvalidInput):
        other.decode(np.array([4, 5]), EVERYTHING)
    one.close()
    with pytest.raises(ValueError, match="decode of something that was closed"):
        one.decode(np.array([4, 5]), EVERYTHING)
    other.prefill(**batch())


def test_conversion_runs_over_there(toy, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # after the worker's start: relative paths are still those of this side
    toy.from_hf(str(checkpoint), "own")
    toy.to_hf("own", "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_errors_cross_by_kind_and_the_model_stays(toy, checkpoint):
    model = toy.load(str(checkpoint), LoadSpec())
    with pytest.raises(InvalidInput, match="ids must be in") as caught:
        model.prefill(np.array([[9999]]), np.array([1]), Request())
    assert "toy_backend.py" in str(caught.value.__cause__)
    with pytest.raises(InvalidInput, match="cannot cross"):
        model.prefill(np.array([["a"]]), np.array([1]), Request())
    with pytest.raises(Unsupported):
        toy.load(str(checkpoint), LoadSpec(dtype="bfloat16"))
    with pytest.raises(CheckpointError) as damaged:
        toy.load(str(checkpoint / "nowhere"), LoadSpec())
    assert damaged.value.path == str(checkpoint / "nowhere")
    assert model.alive and model.prefill(**batch()).logits_BSV is not None


def test_time_is_taken_in_the_worker(third_party):
    backend = third_party(
        slow="""
        import time
        from moe_harness.implementations.tests.toy_backend import ToyBackend
        class Model:
            def reset(self): time.sleep(0.2)
            def close(self): pass
        class Slow(ToyBackend):
            def load(self, path, spec): return Model()
        def backend(variant=None): return Slow()
        """
    )
    model = backend.load("anywhere", LoadSpec())
    began = time.perf_counter()
    model.reset()
    assert 0.2 <= model.last_call_seconds <= time.perf_counter() - began
    model.reset()
    assert 0.4 <= model.called_seconds <= time.perf_counter() - began and model.last_call_seconds < model.called_seconds


def test_large_arrays_cross_both_ways(third_party):
    backend = third_party(
        echo="""
        from moe_harness.implementations.tests.toy_backend import ToyBackend
        class Model:
            def route(self, layer, x_TD): raise NotImplementedError
            def moe_block(self, layer, x_TD, pinned=None): return x_TD
        class Echo(ToyBackend):
            def load(self, path, spec): return Model()
        def backend(variant=None): return Echo()
        """
    )
    x_TD = np.random.default_rng(0).standard_normal((5000, 1000), np.float32)  # 20 MB, far more than a socket buffers
    assert np.array_equal(backend.load("anywhere", LoadSpec()).moe_block(0, x_TD), x_TD)


def test_a_router_by_itself_stays_over_there(third_party):
    backend = third_party(
        routers="""
        import numpy as np
        from moe_harness.implementations.interface import Routing
        from moe_harness.implementations.tests.toy_backend import ToyBackend
        class Router:
            def __init__(self, weights): self.weights = weights
            def route(self, x_TD):
                logits = x_TD @ self.weights.weight_ED.T
                ids = np.argsort(-logits, -1)[:, :1]
                return Routing(ids[None], np.ones_like(ids, np.float32)[None], logits[None])
        class Routers(ToyBackend):
            def router(self, spec, weights, load): return Router(weights)
        def backend(variant=None): return Routers()
        """
    )
    backend.capabilities()
    assert isinstance(backend, RouterBuilder)
    weight_ED = np.eye(4, dtype=np.float32)
    router = backend.router(RoutingSpec(4, 1), RouterWeights(weight_ED), LoadSpec())
    assert router.route(weight_ED).topk_ids_LTK.ravel().tolist() == [0, 1, 2, 3]


def test_what_the_near_side_drops_is_dropped_over_there(third_party):
    backend = third_party(
        counted="""
        import gc
        from dataclasses import replace
        from moe_harness.implementations.tests.toy_backend import ToyBackend
        class Model:
            alive = 0
            def __init__(self): Model.alive += 1
            def __del__(self): Model.alive -= 1
            def reset(self): raise LookupError(Model.alive)
            def close(self): pass
        class Counted(ToyBackend):
            def load(self, path, spec): return Model()
        def backend(variant=None): return Counted()
        """
    )
    models = [backend.load("anywhere", LoadSpec()) for _ in range(5)]
    models[0].close()
    del models[1:3]
    with pytest.raises(RemoteError, match="LookupError: 2"):  # 5, less one closed, less two dropped
        models[-1].reset()


def test_unknown_and_broken_backends_are_what_they_are_here(third_party):
    with pytest.raises(UnknownBackend, match="unknown backend 'nope'"):
        WorkerBackend("nope").capabilities()
    with pytest.raises(BrokenBackend, match="no_such_library"):
        third_party(broken="import no_such_library").connect()
    with pytest.raises(ValueError, match="has no variants"):
        WorkerBackend(f"{TOY}:variant").connect()


def test_a_backend_of_another_contract_is_refused_by_name(third_party):
    backend = third_party(
        late="""
        from moe_harness.interface import CONTRACT_VERSION
        from moe_harness.implementations.tests.toy_backend import ToyBackend
        class Late(ToyBackend):
            contract_version = f"{int(CONTRACT_VERSION.split('.')[0]) + 1}.0"
        def backend(variant=None): return Late()
        """
    )
    with pytest.raises(BrokenBackend, match="'late:backend' was written for version 2.0 of the contract; this moe-harness has 1.0"):
        backend.capabilities()


def test_a_far_side_that_speaks_another_contract_is_refused(third_party, monkeypatch):
    monkeypatch.setattr(near, "check_contract", lambda name, declared: check_contract(name, declared.replace("1.", "3.")))
    backend = third_party(mine="from moe_harness.implementations.tests.toy_backend import backend")
    with pytest.raises(BrokenBackend, match="'mine:backend' was written for version 3.0"):
        backend.capabilities()
    assert not backend.alive


def test_a_result_that_is_not_of_the_contract_is_an_error(third_party):
    backend = third_party(
        odd="""
        from moe_harness.implementations.tests.toy_backend import ToyBackend
        class Odd(ToyBackend):
            def capabilities(self): return object()
        def backend(variant=None): return Odd()
        """
    )
    with pytest.raises(TypeError, match="it is not of the contract"):
        backend.capabilities()


SPY = """
import importlib.util, os, sys
import moe_harness.implementations
from moe_harness.implementations.interface import Capabilities
from moe_harness.implementations.tests.toy_backend import ToyBackend

class Spy(ToyBackend):
    def capabilities(self):
        seen = tuple(name for name in ("moe_harness.cli", "moe_harness.golden", "beside_it", "mine") if importlib.util.find_spec(name))
        return Capabilities(seen, (os.path.realpath(moe_harness.implementations.__file__),), (os.getcwd(),))

def backend(variant=None):
    return Spy()
"""


def test_the_far_side_sees_our_package_and_nothing_installed_beside_it(tmp_path):
    """Ours copied into a folder like site-packages, a stranger beside it: the worker of that copy finds the copy, the user's own modules in
    the current directory, and not the stranger."""
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    source, ours = Path(__file__).parents[1], site / "moe_harness"
    for file in source.rglob("*.py"):
        (ours / "implementations" / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        (ours / "implementations" / file.relative_to(source)).write_text(file.read_text("utf-8"))
    (ours / "__init__.py").write_text("")
    (ours / "interface.py").write_text(Path(public.__file__).read_text("utf-8"))
    (site / "beside_it.py").write_text("")
    (work / "mine.py").write_text(SPY)
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import beside_it\n"
        "from moe_harness.implementations.worker import WorkerBackend as W\n"
        "found = W('mine:backend').capabilities(); print(found.features, found.families, found.dtypes, sep='\\n')"
    )
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", script], cwd=work, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen, package, directory = map(eval, done.stdout.splitlines())
    assert "beside_it" not in seen and "mine" in seen
    assert package == (str(ours / "implementations" / "__init__.py"),) and directory == (str(work),)


def test_close_ends_the_worker_and_a_later_call_starts_another(checkpoint):
    backend = WorkerBackend(TOY)
    model = backend.load(str(checkpoint), LoadSpec())
    backend.close()
    backend.close()
    with pytest.raises(WorkerCrashed, match="was closed"):
        model.reset()
    model.close()
    assert not model.alive and isinstance(backend.capabilities(), Capabilities)
    backend.close()
