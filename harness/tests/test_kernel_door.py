"""`moe-harness kernel` as a kernel engineer meets it: existing kernels pass, bad input is one clear line, files go out and come back."""

from __future__ import annotations

import inspect
import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from moe_harness.cases.describe import read_model
from moe_harness.cases.tensors import numpy_dtype
from moe_harness.cli.app import application
from moe_harness.implementations.kernels.arguments import ARGUMENTS
from moe_harness.kernel.export import LARGEST, export
from moe_harness.kernel.run import Suite
from moe_harness.tests import kernel_wrong

EXAMPLES = "moe_harness.implementations.kernels.examples"
KERNELS = ["hf_eager", "hf_batched_mm", "hf_grouped_mm", "torch_grouped_mm", "native", "routed_in_torch"]
HONEST = f"{kernel_wrong.__name__}:honest"
LIKE = ("--like", "mixtral-8x7b")
SMALL = (*LIKE, "--no-true-shape")
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the examples need torch")


def call(*arguments: str | Path) -> tuple[int, str]:
    """In this process: starting one for the kernel takes seconds, and test_kernel_guarded.py is about that."""
    result = CliRunner().invoke(application(), ["kernel", "--in-process", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mixtral whose true shape is large enough for the palette, and small enough for a test."""
    from moe_harness.implementations.families.mixtral import MIXTRAL_8X7B

    path = tmp_path_factory.mktemp("model") / "config.json"
    sizes = {"hidden_size": 512, "intermediate_size": 768, "num_attention_heads": 8, "num_key_value_heads": 4}
    path.write_text(json.dumps(MIXTRAL_8X7B | sizes))
    return path


@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_existing_kernels_pass(kernel: str, dtype: str, config: Path):
    if kernel.startswith("hf") and find_spec("transformers") is None:
        pytest.skip("the hf examples need transformers")
    code, output = call(f"{EXAMPLES}:{kernel}", "--like", config, "--dtype", dtype)
    assert code == 0 and re.search(r"PASS: 3[36] PASS of 3[36] cases", output), output


def test_what_is_wrong_at_the_true_shape_alone_is_seen_there(config: Path):
    wrong = f"{kernel_wrong.__name__}:ffn_beyond_512_dropped"
    code, output = call(wrong, "--like", config, "--arrays", "numpy", "--dtype", "fp32")
    assert code == 1 and "33 PASS, 3 FAIL of 36 cases (true-1, true-every-expert, true-129)" in output, output


@needs_torch
def test_existing_kernels_pass_with_many_experts():
    code, output = call(f"{EXAMPLES}:torch_grouped_mm", "--like", "qwen3-30b-a3b", "--no-true-shape", "--dtype", "bf16")
    assert code == 0, output


@needs_torch
def test_an_adapter_takes_at_most_15_lines():
    from importlib import import_module

    module = import_module(EXAMPLES)
    bodies = {name: inspect.getsource(getattr(module, name)).splitlines() for name in (*KERNELS, "_hf")}
    assert max(map(len, bodies.values())) <= 15, {name: len(body) for name, body in bodies.items()}


def test_a_line_a_case_and_a_verdict():
    code, output = call(HONEST, *SMALL, "--arrays", "numpy")
    lines = output.splitlines()
    assert code == 0 and len(lines) == 34 and all(line.startswith("PASS  ") for line in lines[:-1])
    assert lines[-1].startswith("PASS: 33 PASS of 33 cases, ")


def test_a_wrong_kernel_is_exit_1_and_named():
    code, output = call(f"{kernel_wrong.__name__}:one_hot_gather", *SMALL, "--arrays", "numpy", "--dtype", "fp32")
    assert code == 1 and "FAIL        nan-token          32 of 33 tokens (0..15, 17..32): NaN or infinity" in output
    assert "FAIL: 32 PASS, 1 FAIL of 33 cases (nan-token)" in output


def test_markdown_is_a_short_table_with_versions_and_command():
    code, output = call(f"{kernel_wrong.__name__}:no_tokens_crash", *SMALL, "--arrays", "numpy", "--markdown")
    assert code == 1 and len(output.splitlines()) < 25
    assert "| `tokens-0` | CRASHED | ValueError: zero-size array" in output and "| loads (9) | PASS |" in output
    assert "numpy " in output and "```\nmoe-harness" in output and "CRASHED of 33 cases (tokens-0)" in output


def test_markdown_stays_short_when_everything_is_wrong():
    code, output = call(f"{kernel_wrong.__name__}:gate_up_swapped", *SMALL, "--arrays", "numpy", "--markdown")
    assert code == 1 and len(output.splitlines()) < 40 and "| 7 more | FAIL | `tokens-15`, `tokens-16`, " in output


def test_markdown_cannot_be_broken_by_a_message():
    from moe_harness.kernel.render import _cell

    assert _cell("a|b <script> `x`\nc") == "a&#124;b &lt;script&gt; &#96;x&#96; c"


def test_json_holds_every_metric(tmp_path: Path):
    code, _ = call(HONEST, *SMALL, "--arrays", "numpy", "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    metrics = {metric["name"] for case in found["cases"] for metric in case["metrics"]}
    assert code == 0 and found["passed"] and len(found["cases"]) == 33 and found["environment"]["packages"]["numpy"]
    assert metrics == {"block_error", "worst_expert_error", "worst_token_error", "repeat_difference"}


USER = """
def asks_for_more(x, topk_ids, topk_weights, w1, w2): return x
def asks_for_too_little(x, w_down): return x
def takes_star(*args): return args
def halves(x, topk_ids, topk_weights, w_gate, w_up, w_down, block=16):
    import numpy as np
    from moe_harness.tests.kernel_wrong import honest
    return honest(x, topk_ids, topk_weights, np.concatenate([w_gate, w_up], 1), w_down)
number = 3
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working directory that is not on the path."""
    (tmp_path / "user_kernels_of_this_test.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("user_kernels_of_this_test:asks_for_more", *SMALL), "asks for w1, w2, which cannot be given"),
        (("user_kernels_of_this_test:asks_for_too_little", *SMALL), "does not ask for topk_ids or router_logits"),
        (("user_kernels_of_this_test:takes_star", *SMALL), "does not ask for x"),
        (("user_kernels_of_this_test:number", *SMALL), "not a function"),
        (("user_kernels_of_this_test:nope", *SMALL), "cannot be imported: AttributeError"),
        (("nowhere.at_all:f", *SMALL), "cannot be imported: ModuleNotFoundError"),
        (("no_colon", *SMALL), "expected MODULE:FUNCTION"),
        ((HONEST,), "--like MODEL"),
        ((HONEST, "--like", "nope"), "no such file"),
        ((HONEST, *SMALL, "--dtype", "int4"), "known: bf16"),
        ((HONEST, *SMALL, "--arrays", "jax"), "known: torch, numpy"),
        ((HONEST, *SMALL, "--arrays", "numpy", "--device", "cuda"), "numpy arrays are on the cpu"),
        ((HONEST, *SMALL, "--small-shape", "12"), "expected DxF"),
        ((HONEST, *SMALL, "--small-shape", "7x8"), "must be even"),
        ((HONEST, *SMALL, "--case", "tokens-18"), "no case 'tokens-18'; cases: tokens-0, "),
        ((), "give either"),
        ((HONEST, *SMALL, "--export", "x"), "give either"),
    ],
)
def test_bad_input_is_a_clear_message_and_exit_2(user: None, arguments: tuple[str, ...], message: str):
    code, output = call(*arguments)
    assert code == 2 and message in output and "Traceback" not in output, output


def test_an_unknown_parameter_is_told_what_there_is(user: None):
    _, output = call("user_kernels_of_this_test:asks_for_more", *SMALL)
    assert all(name in output for name in ARGUMENTS)


def test_a_kernel_in_the_working_directory_with_its_own_options(user: None):
    code, output = call("user_kernels_of_this_test:halves", *SMALL, "--arrays", "numpy", "--small-shape", "64x32")
    assert code == 0, output


def test_the_kernel_has_a_process_of_its_own_unless_asked_otherwise():
    own = CliRunner().invoke(application(), ["kernel", HONEST, *SMALL, "--arrays", "numpy", "--case", "tokens-17"])
    assert own.exit_code == 0 and "1 PASS of 1 cases" in own.output
    refused = CliRunner().invoke(application(), ["kernel", "nowhere.at_all:f", *SMALL])
    assert refused.exit_code == 2 and "ModuleNotFoundError" in refused.output


def test_a_single_case_can_be_asked_again():
    code, output = call(HONEST, *SMALL, "--arrays", "numpy", "--case", "tokens-17")
    assert code == 0 and len(output.splitlines()) == 2 and "1 PASS of 1 cases" in output


def test_help_names_every_argument():
    code, output = call("--help")
    assert code == 0 and all(name in output for name in ARGUMENTS)


@needs_torch
def test_a_missing_device_is_exit_2():
    code, output = call(HONEST, *SMALL, "--device", "xpu:77")
    assert code == 2 and "device 'xpu:77'" in output


def answer(directory: Path, spoil: dict[str, object] | None = None) -> None:
    """What somebody with the honest kernel would write."""
    inputs, manifest = load_file(directory / "inputs.safetensors"), json.loads((directory / "manifest.json").read_text())
    outputs = {}
    for entry in manifest["calls"]:
        name, shape = entry["name"], entry["shape"]
        x, ids, weights = (inputs[f"{name}/{part}"] for part in ("x", "topk_ids", "topk_weights"))
        gate_up, down = (inputs[f"{shape}/{part}"].astype(np.float32) for part in ("w_gate_up", "w_down"))
        outputs[name] = kernel_wrong.honest(x.astype(np.float32), ids, weights, gate_up, down)
    for name, change in (spoil or {}).items():
        if change is None:
            del outputs[name]
        else:
            outputs[name] = change(outputs.get(name))  # type: ignore[operator]
    save_file(outputs, directory / "outputs.safetensors")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    code, output = call("--export", tmp_path / "cases", *LIKE, "--dtype", "bf16")
    assert code == 0 and "calls written" in output
    return tmp_path / "cases"


def test_an_export_is_judged_from_its_outputs(exported: Path):
    answer(exported)
    code, output = call("--judge", exported)
    assert code == 0 and "PASS: 34 PASS of 34 cases" in output, output
    assert sorted(path.name for path in exported.iterdir()) == ["README.txt", "inputs.safetensors", "manifest.json", "outputs.safetensors"]
    assert load_file(exported / "inputs.safetensors")["tokens-17/x"].dtype == numpy_dtype("bfloat16")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"tokens-17": None}, "FAIL        tokens-17          no output named tokens-17"),
        ({"permuted#2": None}, "FAIL        permuted           no output named permuted#2"),
        ({"tokens-18": lambda _: np.zeros((18, 96), np.float32)}, "FAIL        tokens-18          no call has this name"),
        ({"tokens-17": lambda y: y[:16].copy()}, "shape (16, 96), expected (17, 96)"),
        ({"tokens-17": lambda y: y.T.copy()}, "shape (96, 17), expected (17, 96)"),
        ({"tokens-17": lambda y: y.astype(np.float64)}, "dtype F64, expected bfloat16 or float32"),
        ({"tokens-17": lambda y: y.astype(np.float16)}, "dtype float16, expected bfloat16 or float32"),
        ({"tokens-17": lambda y: np.concatenate([y[:16], 0 * y[16:]])}, "the last token of 17"),
        ({"nan-token": lambda y: np.nan * y}, "NaN or infinity in 32 of 33 tokens"),
    ],
)
def test_wrong_outputs_are_lines_and_exit_1(exported: Path, spoil: dict[str, object], message: str):
    answer(exported, spoil)
    code, output = call("--judge", exported)
    assert code == 1 and message in output and "1 FAIL" in output, output


def test_outputs_in_the_dtype_itself_are_judged(exported: Path):
    answer(exported, {"tokens-17": lambda y: y.astype(numpy_dtype("bfloat16"))})
    assert call("--judge", exported)[0] == 0


def test_changed_inputs_are_refused(exported: Path):
    answer(exported)
    inputs = load_file(exported / "inputs.safetensors")
    inputs["tokens-17/x"] = 0 * inputs["tokens-17/x"]
    save_file(inputs, exported / "inputs.safetensors")
    code, output = call("--judge", exported)
    assert code == 2 and "changed since it was exported" in output


def test_no_outputs_no_export_and_a_full_directory_are_exit_2(exported: Path, tmp_path: Path):
    assert "no such file" in call("--judge", exported)[1]
    (exported / "outputs.safetensors").write_bytes(b"nonsense")
    assert call("--judge", exported)[0] == 2
    (exported / "manifest.json").write_text("{}")
    code, output = call("--judge", exported)
    assert code == 2 and "not a manifest" in output
    assert call("--judge", tmp_path / "nowhere")[0] == 2
    code, output = call("--export", exported, *LIKE)
    assert code == 2 and "already exists" in output


@pytest.mark.parametrize("like", ["mixtral-8x7b", "qwen3-30b-a3b"])
def test_the_largest_export_stays_below_30_megabytes(like: str, tmp_path: Path):
    export(Suite(read_model(like), "float32", true=False), like, tmp_path / "cases")
    assert sum(path.stat().st_size for path in (tmp_path / "cases").iterdir()) < LARGEST


def test_an_export_that_is_too_large_is_refused(tmp_path: Path):
    code, output = call("--export", tmp_path / "cases", *LIKE, "--dtype", "fp32", "--small-shape", "1024x512")
    assert code == 2 and "more than 30" in output and not (tmp_path / "cases").exists()


def test_an_export_holds_no_expected_output(exported: Path):
    names = set(load_file(exported / "inputs.safetensors"))
    parts = {name.split("/")[-1] for name in names}
    assert parts == {"x", "topk_ids", "topk_weights", "router_logits", "w_gate_up", "w_down"}
