"""Trains the golden models: byte-level language models small enough for two CPU cores, whose routers nonetheless have learnt to route.

Freshly initialised routers are near-uniform and their experts interchangeable, which hides bugs; hence a real, if short, training. Bits
of the result depend on the machine and the versions of torch and transformers, so the checkpoints are committed and the manifest holds
their sha256; on one machine, the same steps, seed and text give the same bits.

Legend of the windows: B batch, S sequence, N bytes of the text.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.checkpoint import CONFIG, SINGLE
from moe_harness.implementations.checkpoint.writer import new_directory, write_json
from moe_harness.implementations.hf.balance import Balance, Selection, balance_loss
from moe_harness.implementations.hf.loading import open_module
from moe_harness.implementations.hf.quiet import quiet
from moe_harness.implementations.hf.routing import RouterTap, moe_blocks
from moe_harness.implementations.interface import ModelConfig

IGNORED = -100  # label that torch's cross entropy skips
CORRECTION = "e_score_correction_bias"


@dataclass(frozen=True)
class Windows:
    """Random windows of `text` as (input_ids_BS, labels_BS), int64. A quarter of the rows starts a paragraph, with BOS before it; an eighth
    stops at the end of one, with EOS and then PAD, whose labels are IGNORED. `tokens` is B*S; lengths take turns."""

    text: bytes
    config: ModelConfig
    tokens: int
    lengths: Tuple[int, ...]

    def batches(self, seed: int) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        random, step = np.random.default_rng(seed), 0
        bytes_N = np.frombuffer(self.text, np.uint8).astype(np.int64)
        ends = _paragraph_ends(bytes_N)
        while True:
            length = min(self.lengths[step % len(self.lengths)], len(bytes_N) - 2)
            rows = [self._row(random, bytes_N, ends, length + 1) for _ in range(max(1, self.tokens // length))]
            yield self._shifted(np.stack(rows))
            step += 1

    def _row(self, random: np.random.Generator, bytes_N: np.ndarray, ends: np.ndarray, size: int) -> np.ndarray:
        kind, last = random.random(), len(bytes_N) - size
        start = int(random.integers(last + 1))
        starts = ends[ends <= last]
        if kind < 0.25 and self.config.bos_token_id is not None and len(starts):
            start = int(starts[random.integers(len(starts))])
            return np.concatenate([[self.config.bos_token_id], bytes_N[start : start + size - 1]])
        row = bytes_N[start : start + size].copy()
        return self._stopped(row, ends - start) if kind > 0.875 else row

    def _stopped(self, row: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Ended by EOS after its last whole paragraph, if that lies in the second half."""
        inside = ends[(ends >= len(row) // 2) & (ends < len(row))]
        if len(inside) and self.config.eos_token_ids and self.config.pad_token_id is not None:
            row[inside[-1] :] = self.config.pad_token_id
            row[inside[-1]] = self.config.eos_token_ids[0]
        return row

    def _shifted(self, rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        labels = rows[:, 1:].copy()
        if self.config.pad_token_id is not None:
            labels[labels == self.config.pad_token_id] = IGNORED
        return np.ascontiguousarray(rows[:, :-1]), labels


def _paragraph_ends(bytes_N: np.ndarray) -> np.ndarray:
    """Positions just after a blank line."""
    return np.flatnonzero((bytes_N[:-1] == 10) & (bytes_N[1:] == 10)) + 2


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters. `balance`: weight of the balance loss. `router_logit_std`: spread of a router's logits at initialisation, in logits:
    HF's own std of 0.02 starts near uniform and ends with margins too narrow to judge by. `correction_spread`: correction biases are drawn
    within plus and minus so much and stay as they are, since at zero no check would see them. `lengths`: of the windows, in turn."""

    tokens: int = 1024
    lengths: Tuple[int, ...] = (128, 128, 128, 512)
    learning_rate: float = 4e-3
    router_learning_rate: float = 4e-3
    weight_decay: float = 0.3
    warm_up: float = 0.04
    final_rate: float = 0.02
    balance: float = 0.1
    router_logit_std: float = 2.0
    correction_spread: float = 0.15
    clip: float = 1.0
    betas: Tuple[float, float] = field(default=(0.9, 0.95))


def train(config: ModelConfig, text: bytes, heldout: bytes, steps: int, seed: int, dst: str, recipe: Recipe = Recipe()) -> Dict[str, float]:
    """Trains on `text` for `steps` and writes an HF directory in bf16 to `dst`, new or empty.

    Returns facts, measured on the written bf16 weights with float32 arithmetic over `heldout`: steps, loss (bits per byte), parameters,
    load_min and load_max (expert load over uniform, over every layer), gap_median (logits between rank K and K+1: median over tokens, least
    over layers). Raises ValueError for fewer than one step or less than one window of text, CheckpointError if `dst` holds something.
    """
    if steps < 1 or min(len(text), len(heldout)) <= config.max_position_embeddings:
        raise ValueError(f"{steps} steps over {len(text)} and {len(heldout)} bytes: at least one step and one window of each are needed")
    with single_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config, recipe)
        _fit(model, Windows(text, config, recipe.tokens, recipe.lengths), recipe, steps, seed)
    write(model, config, dst)
    with single_thread():
        loss, balance = evaluate(open_module(dst, "float32", "sdpa", "eager")[0], config, heldout)
    return {
        "steps": float(steps),
        "loss": loss,
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "load_min": balance.load_min,
        "load_max": balance.load_max,
        "gap_median": balance.gap_median,
    }


@contextmanager
def single_thread() -> Iterator[None]:
    """Sums then have one order, whatever the number of cores. Costs little: at these sizes a second thread saves a fifth of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def build(config: ModelConfig, recipe: Recipe = Recipe()) -> torch.nn.Module:
    """HF's own model class in float32, initialised by HF but for routers and correction biases. Draws from torch's global generator."""
    model = AutoModelForCausalLM.from_config(_hf_config(config), dtype=torch.float32, experts_implementation="eager")
    for weight_ED in _routers(model):
        torch.nn.init.normal_(weight_ED, std=recipe.router_logit_std / math.sqrt(config.hidden_size))  # its input has unit RMS
    for correction_E in [buffer for name, buffer in model.named_buffers() if name.endswith(CORRECTION)]:
        torch.nn.init.uniform_(correction_E, -recipe.correction_spread, recipe.correction_spread)
    return model


def _hf_config(config: ModelConfig) -> Any:
    raw = families.family(config.family).to_hf(config)
    return AutoConfig.for_model(raw["model_type"], **{k: v for k, v in raw.items() if k not in ("model_type", "dtype")})


def _routers(model: torch.nn.Module) -> List[torch.nn.Parameter]:
    return [parameter for name, parameter in model.named_parameters() if name.endswith("mlp.gate.weight")]


def _fit(model: torch.nn.Module, windows: Windows, recipe: Recipe, steps: int, seed: int) -> None:
    optimizer, batches = _optimizer(model, recipe), windows.batches(seed)
    peaks = [group["lr"] for group in optimizer.param_groups]
    model.train()
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = peak * _rate(step / steps, recipe)
        _loss(model, windows.config, recipe, *map(torch.from_numpy, next(batches))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Routers and vectors do not decay: decay would narrow the margins and pull the norms to zero."""
    routers = _routers(model)
    others = [p for p in model.parameters() if not any(p is router for router in routers)]
    groups: List[Dict[str, Any]] = [
        {"params": [p for p in others if p.ndim > 1], "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay},
        {"params": [p for p in others if p.ndim == 1], "lr": recipe.learning_rate, "weight_decay": 0.0},
        {"params": routers, "lr": recipe.router_learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=recipe.betas)


def _rate(share: float, recipe: Recipe) -> float:
    """Linear warm-up, then cosine down to `final_rate`, as a factor of the peak."""
    if share < recipe.warm_up:
        return max(share / recipe.warm_up, 0.01)
    cosine = 0.5 * (1 + math.cos(math.pi * (share - recipe.warm_up) / (1 - recipe.warm_up)))
    return recipe.final_rate + (1 - recipe.final_rate) * cosine


def _loss(model: torch.nn.Module, config: ModelConfig, recipe: Recipe, ids_BS: torch.Tensor, labels_BS: torch.Tensor) -> torch.Tensor:
    logits_BSV, selections = _forward(model, config, ids_BS)
    cross_entropy = F.cross_entropy(logits_BSV.flatten(0, 1), labels_BS.flatten(), ignore_index=IGNORED)
    return cross_entropy + recipe.balance * balance_loss(selections, config.routing, ids_BS.flatten() != config.pad_token_id)


def _forward(model: Any, config: ModelConfig, ids_BS: torch.Tensor) -> Tuple[torch.Tensor, List[Selection]]:
    """Logits and what each MoE layer's router chose. Goes round the model's own `forward`, which adds HF's balance loss. Pads come last, so
    no attention mask is needed."""
    routers = [block.gate for block in moe_blocks(model, config)]
    with RouterTap(routers, config.routing) as tap:
        hidden_BSD = model.model(ids_BS, use_cache=False).last_hidden_state
    corrections = [getattr(router, CORRECTION, None) for router in routers]
    return model.lm_head(hidden_BSD), [Selection(x, ids, c) for (x, _, ids), c in zip(tap.seen(), corrections)]


def write(model: Any, config: ModelConfig, dst: str) -> None:
    """Parameters in bf16, correction biases (buffers) in float32, by transformers' own `save_pretrained`: the layout on disk is theirs, not
    ours. config.json is as `Family.to_hf` has it."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    with new_directory(dst) as scratch, quiet():
        model.save_pretrained(scratch)
        (scratch / "generation_config.json").unlink(missing_ok=True)
        (scratch / SINGLE).chmod(0o644)  # safetensors makes it private to its owner
        write_json(scratch / CONFIG, families.family(config.family).to_hf(config))


@torch.no_grad()
def evaluate(model: torch.nn.Module, config: ModelConfig, text: bytes) -> Tuple[float, Balance]:
    """(bits per byte, expert load and gaps) over `text`, cut into windows of max_position_embeddings with BOS before each."""
    S = config.max_position_embeddings
    bytes_BS = torch.from_numpy(np.frombuffer(text[: len(text) // S * S], np.uint8).astype(np.int64)).view(-1, S)
    ids_BS = torch.cat([torch.full_like(bytes_BS[:, :1], config.bos_token_id or 0), bytes_BS[:, :-1]], 1)
    parts = [_forward(model, config, rows) for rows in ids_BS.split(8)]
    nats = sum(F.cross_entropy(p[0].flatten(0, 1), rows.flatten(), reduction="sum").item() for p, rows in zip(parts, bytes_BS.split(8)))
    selections = [_joined(layer) for layer in zip(*(p[1] for p in parts))]
    return nats / math.log(2) / bytes_BS.numel(), Balance.of(selections, config.routing)


def _joined(parts: Tuple[Selection, ...]) -> Selection:
    """One layer's selections over all batches."""
    logits_TE, ids_TK = (torch.cat(tensors) for tensors in zip(*((part.logits_TE, part.ids_TK) for part in parts)))
    return Selection(logits_TE, ids_TK, parts[0].correction_E)
