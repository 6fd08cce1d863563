"""Golden data: trained checkpoints, HF's outputs on them, oracle margins, and a manifest with the sha256 of every file.

`expected.safetensors` of a family holds, in float32 unless said otherwise: `input_ids_BS` (int64), `logits_BSV`, `router_logits_LTE`,
`topk_ids_LTK` (int64), `topk_weights_LTK`, all by HF in float32 on those ids; `gap_LT` (float64, the oracle's gap of rank K to K+1);
`greedy_prompts_BS`, `greedy_ids_BS` (int64) and `greedy_lead_BS` (logits between the best and the second-best token at each generated id);
`labels_BS` (int64, the input ids with -100 over a stretch of every row and over all but three tokens of the last) and `loss` (float64, no
dimensions: HF's float32 loss over those labels, in nats). `prompts.safetensors`: see `moe_harness.cases.prompts`.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from moe_harness.build_golden import prompts as golden_prompts
from moe_harness.build_golden.corpus import corpus, split
from moe_harness.build_golden.reading import problems
from moe_harness.cases.cases import HELDOUT, Case, golden_cases
from moe_harness.cases.golden_models import GOLDEN_CONFIGS, LOAD_RANGE, MAX_BITS_PER_BYTE, MIN_GAP, TRAIN_STEPS
from moe_harness.cases.prompts import PROMPTS, Key, Prompts, save
from moe_harness.implementations.interface import Generate, GenerationSpec, GoldenTrainer, LoadSpec, Loss, Model, Request
from moe_harness.implementations.registry import backend
from moe_harness.implementations.worker.bond import end_with_parent
from moe_harness.judge.distance import relative_rms
from moe_harness.oracle.model import Oracle
from moe_harness.oracle.routing import gap
from moe_harness.processes.threads import default_workers, one_thread_each
from moe_harness.suite.bounds.case import floors_of

REFERENCE = "hf:eager"
ROWS, LENGTH, GREEDY_PROMPT, GREEDY_NEW = 4, 64, 16, 24
IGNORED = -100  # HF's label for "does not count"
MANIFEST, EXPECTED = "manifest.json", "expected.safetensors"
SELFTEST = "selftest.json"  # figures about the harness, not data: it holds the sha256 of what the manifest says


class GoldenError(Exception):
    """Golden data are missing, altered, or do not agree with the oracle. `str()` says which file and how."""


def train(root: Path, family: str, steps: int = TRAIN_STEPS, seed: int = 0) -> dict[str, float]:
    """Trains one family with the reference backend and replaces `root/<family>/checkpoint` and the held-out text. Returns the facts, also
    kept in the manifest. Raises GoldenError if the bars of golden_models are missed; the old checkpoint then stays."""
    trainer = backend(REFERENCE)
    if not isinstance(trainer, GoldenTrainer):
        raise GoldenError(f"{REFERENCE} cannot train")
    text, heldout = split(corpus())
    fresh = root / family / "checkpoint.new"
    shutil.rmtree(fresh, ignore_errors=True)
    facts = trainer.train(GOLDEN_CONFIGS[family], text, heldout, steps, seed, str(fresh))
    if missed := list(_missed_bars(facts)):
        raise GoldenError(f"{family}: {'; '.join(missed)}")
    shutil.rmtree(root / family / "checkpoint", ignore_errors=True)
    fresh.rename(root / family / "checkpoint")
    (root / HELDOUT).write_bytes(heldout)
    update_manifest(root, family, training=facts | {"seed": seed, "text_sha256": sha256(text).hexdigest()})
    return facts


def _missed_bars(facts: dict[str, float]) -> Iterator[str]:
    if facts["loss"] >= MAX_BITS_PER_BYTE:
        yield f"{facts['loss']:.2f} bits per byte, {MAX_BITS_PER_BYTE} asked"
    if facts["load_min"] < LOAD_RANGE[0] or facts["load_max"] > LOAD_RANGE[1]:
        yield f"expert load {facts['load_min']:.2f}-{facts['load_max']:.2f} x uniform, {LOAD_RANGE} asked"
    if facts["gap_median"] < MIN_GAP:
        yield f"median gap {facts['gap_median']:.2f} logits, {MIN_GAP} asked"


def make(root: Path) -> None:
    """Writes `expected.safetensors` for every family under `root` with the reference backend in float32, then the manifest."""
    text = (root / HELDOUT).read_bytes()
    for case in golden_cases(root):
        prompts_BS = _clearest_windows(case.oracle, text, ROWS, LENGTH)
        expected = _reference_outputs(case, prompts_BS, _clearest_windows(case.oracle, text[len(text) // 2 :], ROWS, GREEDY_PROMPT))
        expected["gap_LT"] = np.concatenate([_gaps(case.oracle, row) for row in prompts_BS], axis=1)
        save_file(expected, root / case.name / EXPECTED)
        (root / case.name / EXPECTED).chmod(0o644)  # safetensors makes it private to its owner
        update_manifest(root, case.name, oracle_relative_rms=_disagreement(Case(case.name, case.checkpoint, case.golden)))
    update_manifest(root)


def make_prompts(root: Path, seed: int = 0) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    """Searches the golden prompts of every family under `root`, writes `prompts.safetensors` and the manifest; yields (family, facts by
    dtype) as each is done. Raises GoldenError where too few are found."""
    cases = golden_cases(root)
    with one_thread_each(), ProcessPoolExecutor(default_workers("cpu"), get_context("spawn"), end_with_parent) as pool:
        for case, (found, facts) in zip(cases, pool.map(partial(_searched, root, seed=seed), [case.name for case in cases]), strict=True):
            save(root / case.name / PROMPTS, found)
            update_manifest(root, case.name, prompts={"seed": seed, "dtypes": facts})
            yield case.name, facts


def _searched(root: Path, family: str, seed: int) -> tuple[dict[Key, Prompts], dict[str, dict[str, float]]]:
    case = next(case for case in golden_cases(root) if case.name == family)
    try:
        return golden_prompts.make(case, (root / HELDOUT).read_bytes(), seed)
    except golden_prompts.NotFound as error:
        raise GoldenError(str(error)) from error


def _clearest_windows(oracle: Oracle, text: bytes, rows: int, length: int, candidates: int = 60) -> np.ndarray:
    """The windows of held-out text with the largest smallest gap: there no honest float32 implementation flips an expert."""
    starts = np.linspace(0, len(text) - length, candidates).astype(int)
    windows = np.stack([np.frombuffer(text[s : s + length], np.uint8) for s in starts]).astype(np.int64)
    smallest = [_gaps(oracle, window).min() for window in windows]
    return windows[np.sort(np.argsort(smallest)[-rows:])]


def _gaps(oracle: Oracle, input_ids_S: np.ndarray) -> np.ndarray:
    """gap_LS of the oracle's own run."""
    routers = enumerate(oracle.forward(input_ids_S).router_logits_LSE)
    return np.stack([gap(oracle.ranking(layer, logits_SE), oracle.config.routing) for layer, logits_SE in routers])


def _reference_outputs(case: Case, prompts_BS: np.ndarray, greedy_prompts_BS: np.ndarray) -> dict[str, np.ndarray]:
    model = backend(REFERENCE).load(str(case.checkpoint), LoadSpec(dtype="float32", max_length=128))
    assert isinstance(model, Generate) and isinstance(model, Loss)
    out = model.prefill(prompts_BS, np.full(ROWS, LENGTH), Request(logits="all", routing=True))
    assert out.logits_BSV is not None and out.routing is not None and out.routing.router_logits_LTE is not None
    generated = model.generate(greedy_prompts_BS, np.full(ROWS, GREEDY_PROMPT), GenerationSpec(GREEDY_NEW, eos_token_ids=()))
    greedy_ids_BS, labels_BS = np.array(generated, np.int64), _labels(prompts_BS)
    return {
        "input_ids_BS": prompts_BS,
        "logits_BSV": out.logits_BSV,
        "router_logits_LTE": out.routing.router_logits_LTE,
        "topk_ids_LTK": out.routing.topk_ids_LTK,
        "topk_weights_LTK": out.routing.topk_weights_LTK,
        "greedy_prompts_BS": greedy_prompts_BS,
        "greedy_ids_BS": greedy_ids_BS,
        "greedy_lead_BS": _leads(model, greedy_prompts_BS, greedy_ids_BS),
        "labels_BS": labels_BS,
        "loss": np.array(model.loss(prompts_BS, np.full(ROWS, LENGTH), labels_BS), np.float64),
    }


def _labels(prompts_BS: np.ndarray) -> np.ndarray:
    """Another stretch is left out of every row, at the start of the first and at the end of the third; of the last, three tokens stay."""
    labels_BS = prompts_BS.copy()
    for row, (start, stop) in enumerate([(0, 9), (20, 33), (50, LENGTH)]):
        labels_BS[row, start:stop] = IGNORED
    labels_BS[-1, ~np.isin(np.arange(LENGTH), [7, 30, LENGTH - 1])] = IGNORED
    return labels_BS


def _leads(model: Model, prompts_BS: np.ndarray, ids_BS: np.ndarray) -> np.ndarray:
    """Logits between the best and the second-best token where each of `ids_BS` was chosen."""
    model.reset()
    whole_BS = np.concatenate([prompts_BS, ids_BS[:, :-1]], axis=1)
    out = model.prefill(whole_BS, np.full(len(whole_BS), whole_BS.shape[1]), Request(logits="all"))
    assert out.logits_BSV is not None
    ranked = np.sort(out.logits_BSV[:, prompts_BS.shape[1] - 1 :], axis=-1)
    return ranked[..., -1] - ranked[..., -2]


def _oracle_loss(case: Case) -> float:
    """Mean cross entropy of the golden labels under the oracle's logits, in nats."""
    nats: list[np.ndarray] = []
    for row, labels_S in enumerate(case.expected["labels_BS"]):
        at = np.flatnonzero(labels_S[1:] != IGNORED)
        logits_SV = case.free_run(row).logits_SV[at]
        nats.append(np.logaddexp.reduce(logits_SV, axis=-1) - logits_SV[np.arange(len(at)), labels_S[at + 1]])
    return float(np.concatenate(nats).mean())


def _disagreement(case: Case) -> float:
    """Relative RMS between HF's golden logits and the oracle's, over all rows."""
    logits = np.stack([case.free_run(row).logits_SV for row in range(len(case.prompts_BS))])
    return relative_rms(case.expected["logits_BSV"], logits)


def update_manifest(root: Path, family: str | None = None, **facts: Any) -> None:
    """Adds facts about a family; takes the sha256 of every file again."""
    manifest: dict[str, Any] = read_manifest(root) if (root / MANIFEST).exists() else {"schema": 1, "families": {}}
    if family is not None:
        manifest["families"].setdefault(family, {}).update(facts)
    manifest["versions"] = {"python": platform.python_version()} | {p: metadata.version(p) for p in ("torch", "transformers", "numpy")}
    manifest["sha256"] = {str(path.relative_to(root)): _digest(path) for path in _files(root)}
    (root / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_manifest(root: Path) -> dict[str, Any]:
    """manifest.json. Raises GoldenError if it cannot be read."""
    try:
        return json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GoldenError(f"{root / MANIFEST}: {error}") from error


def _files(root: Path) -> list[Path]:
    return sorted(
        p for p in root.rglob("*") if p.is_file() and p.suffix in {".safetensors", ".json", ".txt"} and p.name not in (MANIFEST, SELFTEST)
    )


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Verified:
    """What `verify` saw of one family: disagreement as relative RMS against the oracle and, if it ran, against HF run again."""

    family: str
    tokens: int
    oracle: float
    rerun: float | None


def verify(root: Path, rerun: bool) -> list[Verified]:
    """Checks every file's sha256, then HF's logits against the oracle in float32's bound, then the margins of the golden prompts, then
    (with `rerun`) HF on this machine. Raises GoldenError."""
    manifest = read_manifest(root)
    _verify_files(root, manifest["sha256"])
    return [_verify_case(case, rerun) for case in golden_cases(root)]


def _verify_files(root: Path, recorded: dict[str, str]) -> None:
    present = {str(path.relative_to(root)): _digest(path) for path in _files(root)}
    for name in sorted(recorded.keys() | present.keys()):
        if present.get(name) != recorded.get(name):
            state = "is missing" if name not in present else "is not in the manifest" if name not in recorded else "was altered"
            raise GoldenError(f"{root / name}: {state}")


def _verify_case(case: Case, rerun: bool) -> Verified:
    for problem in problems(case.oracle, case.prompts):
        raise GoldenError(f"{case.name}: {problem}")
    against_oracle = _disagreement(case)
    again = None
    if rerun:
        outputs = _reference_outputs(case, case.prompts_BS, case.expected["greedy_prompts_BS"])
        again = relative_rms(outputs["logits_BSV"], case.expected["logits_BSV"])
    allowed = floors_of(case, "float32").forward(case.prompts_BS[0])["logit_error"].bound
    for name, value in (("the oracle", against_oracle), ("HF run again", again)):
        if value is not None and not value <= allowed:
            raise GoldenError(f"{case.name}: golden logits differ from {name} by {value:.2g}, {allowed:.2g} allowed")
    # A token's cross entropy moves by at most twice the largest error of its logits.
    loss, largest = float(case.expected["loss"]), float(np.abs(case.expected["logits_BSV"]).max())
    if not abs(loss - _oracle_loss(case)) <= 2 * allowed * largest:
        raise GoldenError(f"{case.name}: golden loss {loss:.7f} differs from the oracle's {_oracle_loss(case):.7f}")
    return Verified(case.name, case.prompts_BS.size, against_oracle, again)
