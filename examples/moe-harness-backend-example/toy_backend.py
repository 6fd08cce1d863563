"""A whole backend in one file: Mixtral in float32, standard library and numpy alone, so that it runs under any interpreter.

It declares what it can do and nothing else; the harness judges that and types the rest as UNSUPPORTED. Rows of a batch are computed one by
one without their pads, so a row is one sequence with a cache of its own. Reading order: backend, ToyBackend, ToyModel, Row, read_model.

Legend: B batch, S sequence, C cached positions, T tokens, L MoE layers, E experts, K top-k, D hidden, V vocabulary, H heads, P head size.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from moe_harness.implementations import families
from moe_harness.implementations.families.weights import assemble, by_target, canonical_shapes
from moe_harness.implementations.interface import (  # fmt: skip
    Capabilities,
    CheckpointError,
    InvalidInput,
    LoadSpec,
    ModelCapabilities,
    ModelConfig,
    PinnedRouting,
    Request,
    Routing,
    StepOutput,
    Unsupported,
)

FEATURES = ("prefill", "decode", "reset", "chunked_prefill", "left_padding", "right_padding", "probe", "routing")
Tensors = Dict[str, np.ndarray]


def backend(variant: Optional[str] = None) -> "ToyBackend":
    if variant is not None:
        raise ValueError(f"the toy has no variants, got {variant!r}")
    return ToyBackend()


class ToyBackend:
    name = "toy"

    def capabilities(self) -> Capabilities:
        return Capabilities(features=FEATURES, families=("mixtral",), dtypes=("float32",), reads_hf=True)

    def from_hf(self, src: str, dst: str) -> None:
        read_model(Path(src))  # refuses what `load` would refuse, before anything is written
        shutil.copytree(src, dst, dirs_exist_ok=True)

    to_hf = from_hf  # its own format is HF's

    def load(self, path: str, spec: LoadSpec) -> "ToyModel":
        if spec.dtype != "float32" or spec.device != "cpu" or spec.options:
            raise Unsupported(f"float32 on a CPU without options, got {spec}")
        return ToyModel(*read_model(Path(path)), spec)


class ToyModel:
    """`Model` and `Probe`."""

    def __init__(self, config: ModelConfig, tensors: Tensors, spec: LoadSpec):
        self.config, self._tensors, self._spec = config, tensors, spec
        self._rows: List[Row] = []

    def capabilities(self) -> ModelCapabilities:
        return ModelCapabilities.of(self.config)

    def prefill(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, request: Request) -> StepOutput:
        B, S = integers(input_ids_BS, 2).shape
        if not 1 <= B <= self._spec.max_batch or len(self._rows) not in (0, B):
            raise InvalidInput(f"{B} rows, at most {self._spec.max_batch}; the cache holds {len(self._rows)}")
        if integers(lengths_B, 1).shape != (B,) or not S or np.min(lengths_B) < 1 or np.max(lengths_B) > S:
            raise InvalidInput(f"lengths {lengths_B} do not fit ids of shape {(B, S)}")
        rows = self._rows or [Row(self.config, self._tensors) for _ in range(B)]
        return self._step(rows, input_ids_BS, [_valid(S, int(n), request.padding) for n in lengths_B], request)

    def decode(self, token_ids_B: np.ndarray, request: Request) -> StepOutput:
        if not self._rows or integers(token_ids_B, 1).shape != (len(self._rows),):
            raise InvalidInput(f"{len(self._rows)} rows are in the cache, got {np.shape(token_ids_B)} tokens")
        return self._step(self._rows, token_ids_B[:, None], [slice(0, 1)] * len(token_ids_B), request)

    def reset(self) -> None:
        self._rows = []

    def close(self) -> None:
        self._rows, self._tensors = [], {}

    def route(self, layer: int, x_TD: np.ndarray) -> Routing:
        logits_TE, ids_TK, weights_TK = Row(self.config, self._tensors).route(self.config.moe_layers[layer], x_TD)
        return Routing(ids_TK[None], weights_TK[None], logits_TE[None])

    def moe_block(self, layer: int, x_TD: np.ndarray, pinned: Optional[PinnedRouting] = None) -> np.ndarray:
        if pinned is not None:
            raise Unsupported("the toy does not pin routing")
        return Row(self.config, self._tensors).moe(self.config.moe_layers[layer], x_TD)

    def _step(self, rows: List["Row"], ids_BS: np.ndarray, valid: List[slice], request: Request) -> StepOutput:
        """Checks everything, then changes the caches."""
        if request.logits not in ("all", "last", "none") or request.padding not in ("left", "right"):
            raise InvalidInput(f"not a request that makes sense: {request}")
        (B, S), L, E, K = ids_BS.shape, len(self.config.moe_layers), self.config.routing.num_experts, self.config.routing.top_k
        if any(row.length + part.stop - part.start > self._spec.max_length for row, part in zip(rows, valid)):
            raise InvalidInput(f"more than {self._spec.max_length} positions")
        if ids_BS.min() < 0 or ids_BS.max() >= self.config.vocab_size:
            raise InvalidInput(f"ids must be in [0, {self.config.vocab_size})")
        if request.pinned is not None:
            raise Unsupported("the toy does not pin routing")
        logits_BSV = np.zeros((B, S, self.config.vocab_size), np.float32)
        router_LBSE, ids_LBSK, weights_LBSK = np.zeros((L, B, S, E), np.float32), np.zeros((L, B, S, K), int), np.zeros((L, B, S, K), "f4")
        mask_BS = np.zeros((B, S), bool)
        for b, (row, part) in enumerate(zip(rows, valid)):
            logits_BSV[b, part], routed = row.forward(ids_BS[b, part])
            for moe_layer, answer in enumerate(routed):
                for array, of_row in zip((router_LBSE, ids_LBSK, weights_LBSK), answer):
                    array[moe_layer, b, part] = of_row
            mask_BS[b, part] = True
        self._rows = rows
        ids, weights, router = (a.reshape(L, B * S, -1) for a in (ids_LBSK, weights_LBSK, router_LBSE))
        last_BSV = np.stack([logits_BSV[b, part.stop - 1][None] for b, part in enumerate(valid)])
        logits = {"all": logits_BSV, "last": last_BSV, "none": None}[request.logits]
        return StepOutput(logits, Routing(ids, weights, router, mask_T=mask_BS.ravel()) if request.routing else None)


class Row:
    """One sequence: what its layers have cached, and the transformer over what comes next."""

    def __init__(self, config: ModelConfig, tensors: Tensors):
        self.config, self._tensors = config, tensors
        self._cache: Dict[int, Tuple[np.ndarray, np.ndarray]] = {}
        self.length = 0

    def forward(self, ids_S: np.ndarray) -> Tuple[np.ndarray, List[Tuple[np.ndarray, ...]]]:
        """(logits_SV, the routing of each MoE layer); appends S positions."""
        h_SD = self._tensors["embed.weight"][ids_S]
        routed: List[Tuple[np.ndarray, ...]] = []
        for i in range(self.config.num_hidden_layers):
            h_SD = h_SD + self._attention(i, self._norm(h_SD, f"layers.{i}.attention_norm.weight"))
            x_SD = self._norm(h_SD, f"layers.{i}.ffn_norm.weight")
            routed.append(self.route(i, x_SD))
            h_SD = h_SD + self.moe(i, x_SD)
        self.length += len(ids_S)
        head = "embed.weight" if self.config.tie_word_embeddings else "lm_head.weight"
        return self._norm(h_SD, "norm.weight") @ self._tensors[head].T, routed

    def route(self, layer: int, x_TD: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(logits_TE, ids_TK, weights_TK): softmax over the K best logits, which is softmax over all and division by the K's sum."""
        logits_TE = x_TD @ self._tensors[f"layers.{layer}.moe.router.weight"].T
        ids_TK = np.argsort(-logits_TE, axis=-1, kind="stable")[:, : self.config.routing.top_k]
        return logits_TE, ids_TK, softmax(np.take_along_axis(logits_TE, ids_TK, -1))

    def moe(self, layer: int, x_TD: np.ndarray) -> np.ndarray:
        """Sum over each token's K experts of weight * down(silu(gate x) * up x)."""
        _, ids_TK, weights_TK = self.route(layer, x_TD)
        y_TD = np.zeros_like(x_TD)
        for e in np.unique(ids_TK):
            token, slot = np.nonzero(ids_TK == e)
            gate, up = np.split(x_TD[token] @ self._tensors[f"layers.{layer}.moe.gate_up.weight"][e].T, 2, axis=-1)
            hidden = gate * np.exp(-np.logaddexp(np.float32(0), -gate)) * up
            y_TD[token] += weights_TK[token, slot, None] * (hidden @ self._tensors[f"layers.{layer}.moe.down.weight"][e].T)
        return y_TD

    def _attention(self, layer: int, x_SD: np.ndarray) -> np.ndarray:
        c, S = self.config, len(x_SD)
        q, k, v = (self._project(layer, part, x_SD) for part in "qkv")
        q, k = self._rotate(q), self._rotate(k)
        if layer in self._cache:
            k, v = (np.concatenate(pair) for pair in zip(self._cache[layer], (k, v)))
        self._cache[layer] = k, v
        k_HCP, v_HCP = (np.repeat(x, c.num_attention_heads // c.num_key_value_heads, axis=1).transpose(1, 0, 2) for x in (k, v))
        scores_HSC = q.transpose(1, 0, 2) @ k_HCP.transpose(0, 2, 1) / np.float32(np.sqrt(c.head_dim))
        query, key = self.length + np.arange(S)[:, None], np.arange(len(k))
        visible = (key <= query) & (key > query - (c.sliding_window or len(k)))
        mixed_SHP = (softmax(np.where(visible, scores_HSC, np.float32(-np.inf))) @ v_HCP).transpose(1, 0, 2)
        return mixed_SHP.reshape(S, -1) @ self._tensors[f"layers.{layer}.attention.o.weight"].T

    def _project(self, layer: int, part: str, x_SD: np.ndarray) -> np.ndarray:
        return (x_SD @ self._tensors[f"layers.{layer}.attention.{part}.weight"].T).reshape(len(x_SD), -1, self.config.head_dim)

    def _rotate(self, x_SHP: np.ndarray) -> np.ndarray:
        """Rotary embedding, dimension p paired with p + P/2, angles in float64."""
        half = self.config.head_dim // 2
        angles = (self.length + np.arange(len(x_SHP)))[:, None, None] * self.config.rope_theta ** (-np.arange(half) / half)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        first, second = x_SHP[..., :half], x_SHP[..., half:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.config.rms_norm_eps)) * self._tensors[name]


def softmax(x: np.ndarray) -> np.ndarray:
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def integers(array: np.ndarray, rank: int) -> np.ndarray:
    if np.ndim(array) != rank or not np.issubdtype(array.dtype, np.integer):
        raise InvalidInput(f"expected integers of rank {rank}, got {array.dtype} of shape {np.shape(array)}")
    return array


def _valid(length: int, tokens: int, padding: str) -> slice:
    return slice(0, tokens) if padding == "right" else slice(length - tokens, length)


def read_model(directory: Path) -> Tuple[ModelConfig, Tensors]:
    """The config and the canonical tensors of an HF directory, in float32. Raises CheckpointError, and Unsupported for another family."""
    try:
        raw = json.loads((directory / "config.json").read_text("utf-8"))
        family = families.detect(raw)
        if family.name != "mixtral":
            raise Unsupported(f"the toy knows Mixtral, not {family.name}")
        config = family.parse(raw)
        stored: Dict[str, np.ndarray] = dict(pair for file in sorted(directory.glob("*.safetensors")) for pair in read_safetensors(file))
    except (OSError, ValueError, LookupError, struct.error) as error:
        raise CheckpointError(directory, f"{type(error).__name__}: {error}") from error
    has_head = "lm_head.weight" in stored or not config.tie_word_embeddings
    layout = family.layout(config, has_head)
    expected = {p.source: p.shape for p in layout}
    if wrong := sorted(n for n in expected.keys() | stored.keys() if n not in stored or stored[n].shape != expected.get(n)):
        raise CheckpointError(directory, "missing, unknown or of another shape than config.json asks for", wrong[0])
    shapes = canonical_shapes(config, has_head)
    return config, {name: assemble(parts, shapes[name], stored.__getitem__) for name, parts in by_target(layout).items()}


def read_safetensors(file: Path) -> Iterator[Tuple[str, np.ndarray]]:
    """(name, float32 array). The format: 8 bytes length, a JSON header {name: {dtype, shape, data_offsets}}, the bytes."""
    content = file.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header: Dict[str, Any] = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        yield name, to_float32(content[begin:end], entry["dtype"]).reshape(entry["shape"])


def to_float32(raw: bytes, dtype: str) -> np.ndarray:
    """bfloat16 is the upper half of a float32. KeyError for other dtypes."""
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)
