"""neuronx-distributed as a kernel: its absence is a declared gap, the adapter gives it what it asks for, and where its source is on
PYTHONPATH the real one is judged. Legend: T tokens, K top-k, E experts, D hidden, F expert FFN."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch

from moe_harness.implementations.interface import Unsupported
from moe_harness.implementations.kernels import nxd, nxd_library
from moe_harness.implementations.kernels.examples import routed_in_torch, torch_grouped_mm
from moe_harness.implementations.kernels.nxd_library import StandIns

E, K, D, F = 8, 2, 12, 8
PATHS = ["all_experts", "selective", "blockwise", "capacity", "chosen"]
needs_nxd = pytest.mark.skipif(find_spec("neuronx_distributed") is None, reason="neuronx-distributed's source is not on PYTHONPATH")


def weights(T: int = 5) -> tuple[torch.Tensor, ...]:
    """x, ids, weights, w_gate_up, w_down."""
    make = torch.Generator().manual_seed(0)
    ids_TK = torch.rand(T, E, generator=make).argsort(1)[:, :K]
    sizes = (T, D), (T, K), (E, 2 * F, D), (E, D, F)
    x, topk_weights, w_gate_up, w_down = (torch.rand(*size, generator=make) - 0.3 for size in sizes)
    return x, ids_TK, topk_weights, w_gate_up, w_down


class Experts(torch.nn.Module):
    """What the adapter calls, after the shapes that NxD documents: weights (E, D, 2F) and (E, F, D), affinities (T, E)."""

    calls: list[str] = []

    def __init__(self, config: SimpleNamespace, blocks: object, dtype: torch.dtype, device: torch.device):
        super().__init__()
        assert device.type == "meta"
        self.routed_experts_mlp_config, self.mlp_op = config, torch.nn.Module()
        self.mlp_op.gate_up_proj, self.mlp_op.down_proj = torch.nn.Module(), torch.nn.Module()

    def forward(self, x_TD, affinities_TE, ids_TK, seq_len):
        assert seq_len == len(x_TD)
        return self._compute("chosen", x_TD, affinities_TE, ids_TK)

    def forward_all_experts(self, *values):
        return self._compute("all_experts", *values)

    def forward_selective_loading(self, *values):
        return self._compute("selective", *values)

    def forward_blockwise(self, *values):
        return self._compute("blockwise", *values)

    def forward_capacity_factor(self, *values):
        return self._compute(f"capacity {self.routed_experts_mlp_config.capacity_factor:g}", *values)

    def _compute(self, name, x_TD, affinities_TE, ids_TK):
        assert not self.training and affinities_TE.dtype == x_TD.dtype
        Experts.calls.append(name)
        weights_TK = affinities_TE.gather(1, ids_TK)
        if self.routed_experts_mlp_config.normalize_top_k_affinities:
            weights_TK = weights_TK / weights_TK.sum(1, keepdim=True)
        return torch_grouped_mm(x_TD, ids_TK, weights_TK, self.mlp_op.gate_up_proj.weight.mT, self.mlp_op.down_proj.weight.mT)


class Router(torch.nn.Module):
    def __init__(self, num_experts, top_k, hidden_size, dtype):
        super().__init__()
        self.linear_router, self.top_k = torch.nn.Linear(hidden_size, num_experts, bias=False, dtype=dtype), top_k

    def forward(self, hidden):
        logits_TE = self.linear_router(hidden)
        return logits_TE, logits_TE.softmax(-1), logits_TE.topk(self.top_k).indices


def config_of(E, D, F, K, hidden_act, glu_mlp, normalize_top_k_affinities):
    assert (hidden_act, glu_mlp) == ("silu", True)
    return SimpleNamespace(normalize_top_k_affinities=normalize_top_k_affinities, capacity_factor=None)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In the library's place; the list says which paths were taken."""
    configs = SimpleNamespace(RoutedExpertsMLPOpsConfig=config_of, BlockwiseMatmulConfig=SimpleNamespace(default=object))
    experts, routing = SimpleNamespace(ExpertMLPsV2=Experts), SimpleNamespace(RouterTopK=Router)
    found = nxd_library.Library(experts, configs, routing, StandIns((), {}))
    monkeypatch.setattr(nxd, "library", lambda: found)
    monkeypatch.setattr(Experts, "calls", [])
    return Experts.calls


@pytest.mark.parametrize("path", PATHS)
def test_each_path_is_given_the_weights_and_affinities(path: str, stand_in: list[str]):
    given = weights()
    torch.testing.assert_close(getattr(nxd, path)(*given), torch_grouped_mm(*given))
    assert stand_in == ["capacity 4" if path == "capacity" else path]


@pytest.mark.parametrize("renormalize", [True, False])
def test_the_router_is_given_the_logits(renormalize: bool, stand_in: list[str]):
    x, _, _, *stored = weights()
    logits_TE = torch.randn(5, E, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(nxd.routed(x, logits_TE, K, renormalize, *stored), routed_in_torch(x, logits_TE, K, renormalize, *stored))
    assert stand_in == ["chosen"]


def test_what_capacity_would_drop_is_said_and_not_computed(stand_in: list[str]):
    x, _, topk_weights, *stored = weights(8)
    even = torch.arange(8)[:, None].add(torch.tensor([0, 3])) % E
    torch.testing.assert_close(nxd.capacity_1(x, even, topk_weights, *stored), torch_grouped_mm(x, even, topk_weights, *stored))
    assert stand_in == ["capacity 1"]
    with pytest.raises(Unsupported, match="12 of 16 choices find no place"):
        nxd.capacity_1(x, torch.tensor([[6, 7]]).repeat(8, 1), topk_weights, *stored)


@pytest.mark.parametrize("path", PATHS)
def test_no_tokens_are_a_gap_where_nxd_raises(path: str, stand_in: list[str]):
    if path == "all_experts":
        assert nxd.all_experts(*weights(0)).shape == (0, D)
        return
    with pytest.raises(Unsupported, match="at least one token"):
        getattr(nxd, path)(*weights(0))


def test_a_single_choice_is_not_normalised_and_other_devices_are_a_gap(stand_in: list[str]):
    x, ids_TK, topk_weights, *stored = weights()
    with pytest.raises(Unsupported, match="single choice"):
        nxd.routed(x, torch.zeros(5, E), 1, True, *stored)
    with pytest.raises(Unsupported, match="device meta"):
        nxd.all_experts(x.to("meta"), ids_TK, topk_weights, *stored)


def absence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said where only `folder` could hold the package."""
    nxd_library.library.cache_clear()
    monkeypatch.setattr(sys, "path", [str(folder), *(path for path in sys.path if not (Path(path) / nxd_library.PACKAGE).is_dir())])
    with pytest.raises(Unsupported) as caught:
        nxd.blockwise(*weights())
    assert nxd_library.PACKAGE not in sys.modules and "torch_xla" not in sys.modules
    return str(caught.value)


def test_absence_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert absence(tmp_path, monkeypatch) == f"neuronx_distributed is not installed; {nxd_library.WHERE}"


def test_the_placeholder_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """PyPI's 0.1: metadata, and a folder whose name no import statement can spell."""
    (tmp_path / "neuronx-distributed").mkdir()
    (tmp_path / "neuronx-distributed" / "__init__.py").write_text("raise ImportError('WRONG PACKAGE')")
    (tmp_path / "neuronx_distributed-0.1.dist-info").mkdir()
    (tmp_path / "neuronx_distributed-0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: neuronx-distributed\nVersion: 0.1\n"
    )
    assert "neuronx-distributed 0.1 is installed and cannot be imported: PyPI's is a placeholder" in absence(tmp_path, monkeypatch)


def test_a_package_without_its_modules_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "neuronx_distributed").mkdir()
    (tmp_path / "neuronx_distributed" / "__init__.py").write_text("raise ImportError('WRONG PACKAGE')")
    assert f"in {tmp_path / 'neuronx_distributed'} has no neuronx_distributed.modules" in absence(tmp_path, monkeypatch)


def test_a_package_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "neuronx_distributed" / "modules" / "moe"
    package.mkdir(parents=True)
    (package / "expert_mlps_v2.py").write_text("import torch_xla.core\nimport a_library_that_is_not_here")
    assert "No module named 'a_library_that_is_not_here'" in absence(tmp_path, monkeypatch)


def test_stand_ins_serve_an_import_and_no_computation():
    stand_ins = StandIns(("absent_vendor", "math"), {"absent_vendor.tools.target": "trn2"})
    with stand_ins:
        import math

        import absent_vendor.tools as tools  # type: ignore[import-not-found]
        from absent_vendor.tools import jit, target
    assert math.sqrt(4) == 2 and stand_ins.names == ("absent_vendor",) and find_spec("absent_vendor") is None

    @jit(platform=target())
    class Derived(tools.Base):
        pass

    assert target() == "trn2" and tools.jit is jit and "absent_vendor.tools.jit" in repr(Derived)
    with stand_ins.seal(), pytest.raises(RuntimeError, match="absent_vendor.tools.jit is not here"):
        jit()


@needs_nxd
@pytest.mark.parametrize("path", [*PATHS, "routed"])
def test_the_real_one_passes(path: str):
    """In a process of its own: importing it changes the environment and starts a process group."""
    command = [sys.executable, "-m", "moe_harness", "kernel", f"{nxd.__name__}:{path}", "--like", "mixtral-8x7b", "--no-true-shape"]
    done = subprocess.run([*command, "--dtype", "fp32", "--in-process"], capture_output=True, text=True, timeout=600)
    gap = path != "all_experts"  # tokens-0
    assert done.returncode == 0 and f"{(30 if path == 'routed' else 33) - gap} PASS" in done.stdout.splitlines()[-1], (
        done.stdout + done.stderr
    )


@needs_nxd
def test_the_real_one_drops_what_is_said():
    """Two places for eight tokens that all want the same two experts."""
    ask = "nxd._with_capacity(x, torch.tensor([[6, 7]]).repeat(8, 1), topk_weights, w_gate_up, w_down, 1.0)"
    given = f"import torch; from {__name__} import nxd, weights; x, _, topk_weights, w_gate_up, w_down = weights(8)"
    done = subprocess.run([sys.executable, "-c", f"{given}; print({ask}.any(1).tolist())"], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip().endswith(str([True] * 2 + [False] * 6)), done.stdout + done.stderr
