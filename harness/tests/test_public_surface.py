"""What outsiders build on: the names of `moe_harness.interface`, in a literal list, so that changing them is a deliberate act; and that
no folder of ours takes a library's name."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from moe_harness import interface as public
from moe_harness.implementations import interface as contract

REPO = Path(__file__).resolve().parents[2]
INTERFACE = REPO / "implementations" / "interface.py"

# Every public name with its methods and its fields, in positional order. Appending a field with a default keeps third-party backends
# alive; anything else breaks them and belongs into the CHANGELOG.
SURFACE = {
    "Backend": "name capabilities from_hf to_hf load",
    "CONTRACT_VERSION": "",
    "Capabilities": "features families dtypes logits quantizations variants execution execution_note reads_hf lossy unavailable devices "
    "left_out",
    "CheckpointError": "",
    "Compilation": "exported export_s compiled compile_s cached host_operators",
    "Compiler": "compilation",
    "DTYPES": "",
    "Gauge": "product_flops_per_s read_bytes_per_s device_peak_bytes",
    "Generate": "generate",
    "GenerationSpec": "max_new_tokens temperature top_k top_p seed eos_token_ids",
    "GoldenTrainer": "train",
    "GraphProof": "is_static graph problem dynamic ranges difference",
    "InvalidInput": "",
    "KernelCall": "x_TD topk_ids_TK topk_weights_TK router_logits_TE renormalize",
    "KernelResult": "y problems",
    "LoadSpec": "dtype device max_batch max_length options",
    "Loss": "loss",
    "MoEKernel": "load run arguments",
    "Model": "capabilities prefill decode reset close",
    "ModelCapabilities": "of architecture is_moe num_experts experts_per_token norm_topk_prob max_position_embeddings sliding_window "
    "head_dim_override uses_position supports_cache_reset is_quantized",
    "ModelConfig": "family architecture vocab_size hidden_size intermediate_size moe_intermediate_size num_hidden_layers "
    "num_attention_heads num_key_value_heads head_dim max_position_embeddings rms_norm_eps rope_theta routing moe_layers sliding_window "
    "qk_norm attention_bias tie_word_embeddings eos_token_ids bos_token_id pad_token_id dtype shared_expert "
    "shared_expert_intermediate_size",
    "Packed": "prefill_packed",
    "Padded": "computed_batch",
    "PinnedRouting": "topk_ids_LTK topk_weights_LTK",
    "Probe": "route moe_block",
    "Request": "logits routing padding pinned",
    "Router": "route",
    "RouterBuilder": "router",
    "RouterWeights": "weight_ED bias_E correction_bias_E",
    "Routing": "topk_ids_LTK topk_weights_LTK router_logits_LTE dropped_LTK mask_T",
    "RoutingSpec": "num_experts top_k scoring normalize_topk scoring_dtype tie_rule router_bias correction_bias num_groups top_groups "
    "scaling_factor",
    "Slots": "prefill_slots decode_slots",
    "StaticProof": "prove_static",
    "StepOutput": "logits_BSV routing top",
    "TopLogProbs": "ids_BSN log_probs_BSN",
    "Unsupported": "",
}


def definitions(text: str) -> dict[str, ast.stmt]:
    """Public top-level names that the module defines itself; what it imports is not its surface."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found.update({target.id: node for target in node.targets if isinstance(target, ast.Name)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return {name: node for name, node in found.items() if not name.startswith("_")}


def members(node: ast.stmt) -> list[str]:
    """A class's public methods and fields, each in their order."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    names = [item.name for item in body if isinstance(item, ast.FunctionDef)]
    names += [item.target.id for item in body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def test_the_surface_is_the_literal_list():
    found = definitions(INTERFACE.read_text("utf-8"))
    assert sorted(found) == sorted(SURFACE) == list(SURFACE)
    assert {name: members(node) for name, node in found.items()} == {name: text.split() for name, text in SURFACE.items()}


def test_the_public_module_passes_on_all_of_it():
    assert sorted(public.__all__) == sorted(SURFACE)
    assert all(getattr(public, name) is getattr(contract, name) for name in SURFACE)


def test_every_public_class_has_a_docstring():
    """From the syntax tree: a dataclass without one is given its signature at run time."""
    found = definitions(INTERFACE.read_text("utf-8"))
    assert not [name for name, node in found.items() if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not ast.get_docstring(node)]


def test_a_changed_surface_is_seen():
    text = "import numpy as np\nX, _hidden = 1, 2\nY: int = 3\nclass C:\n    a: int\n    _b: int\n    def f(self): ...\n"
    assert sorted(definitions(text)) == ["C", "Y"] and members(definitions(text)["C"]) == ["f", "a"]


def folders_that_shadow(names: list[str], home: Path) -> list[str]:
    """Top-level names that Python, as it stands, would resolve to something inside `home`."""
    specs = {name: importlib.util.find_spec(name) for name in names}
    places = {name: [spec.origin or "", *(spec.submodule_search_locations or [])] for name, spec in specs.items() if spec}
    return sorted(name for name, found in places.items() if any(Path(place).is_relative_to(home) for place in found))


def test_no_library_is_shadowed_by_a_folder_of_ours():
    """`gguf` and `candle` are libraries; so may be whatever else has the name of a folder or file below implementations/."""
    home = REPO / "implementations"
    ours = [path.stem for path in home.iterdir() if path.stem.isidentifier() and not path.stem.startswith("__")]
    assert folders_that_shadow(["gguf", "candle", *ours], home) == []


def test_a_shadowing_folder_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "candle").mkdir()
    (tmp_path / "candle" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert folders_that_shadow(["gguf", "candle"], tmp_path) == ["candle"]
