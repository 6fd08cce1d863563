"""THE contract between a backend and its judge. Standard library and numpy only, Python >= 3.9 syntax.

Dimension legend, used as suffixes (`x_TD`): B batch, S sequence, T tokens = B*S with pads, L MoE layers (not all layers), E experts,
K top-k, D hidden, F expert FFN, I dense FFN, V vocabulary, H heads, N key/value heads, P head size.

Rules that hold for every method below:
- Host numpy arrays cross the boundary, C-contiguous; a call returns when its result is on the host.
- `Unsupported(reason)` is a declared gap. `InvalidInput` rejects a bad call and leaves the model usable. Anything else is a failure.
- An unknown tensor, option or family is an error, never skipped.

Version: a backend says for which one it was written by an attribute `contract_version` ("1.0"); without it, for 1.0. The second number
grows when something optional is added, the first when code written for the version before would break: such a backend is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Protocol, Sequence, Tuple, runtime_checkable

import numpy as np

CONTRACT_VERSION = "1.0"
DTYPES = ("float32", "bfloat16", "float16")


class Unsupported(Exception):
    """A gap the backend declares: the feature is not there. Judged UNSUPPORTED, never FAIL. `str()` is the reason."""


class InvalidInput(ValueError):
    """The caller broke the contract (empty prompt, id out of range, too long, ...). The model stays usable."""


class CheckpointError(Exception):
    """A checkpoint cannot be read. Names the file and, where there is one, the tensor; nothing was loaded."""

    def __init__(self, path: object, message: str, tensor: Optional[str] = None):
        self.path, self.message, self.tensor = str(path), message, tensor
        super().__init__(f"{self.path}: " + (f"tensor {tensor!r}: " if tensor else "") + message)

    def __reduce__(self) -> Tuple[type, Tuple[str, str, Optional[str]]]:
        return type(self), (self.path, self.message, self.tensor)  # it goes from process to process


@dataclass(frozen=True)
class RoutingSpec:
    """How a router turns hidden states into (ids, weights), in this order. Source of the fields: the families' HF configs.

    logits = W x, plus a bias if `router_bias` (gpt-oss). Scores = `scoring` (softmax | sigmoid) of the logits, computed in
    `scoring_dtype`. Selection ranks the scores, plus a per-expert correction if `correction_bias` (DeepSeek-V3): of `num_groups` equal runs
    of experts the `top_groups` with the largest sum of their two best stay, of their experts the `top_k` best. Weights are the selected
    scores without the correction, divided by their sum if `normalize_topk`, times `scaling_factor`. `tie_rule`: lowest (the lower expert
    id wins an exact tie) | any.
    """

    num_experts: int
    top_k: int
    scoring: str = "softmax"
    normalize_topk: bool = True
    scoring_dtype: str = "float32"
    tie_rule: str = "any"
    router_bias: bool = False
    correction_bias: bool = False
    num_groups: int = 1
    top_groups: int = 1
    scaling_factor: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only MoE transformer, in HF's names. `moe_layers`: the layer indices that hold experts; the others hold a dense MLP of
    `intermediate_size`. `moe_intermediate_size` is F. `sliding_window`: a query at position p sees positions p-window+1 .. p; None = all.
    `qk_norm`: none | head (each head by itself) | projection (all heads as one vector). `attention_bias`: which of q, k, v, o have one.
    `shared_expert`: none | ungated | gated (times the sigmoid of a logit of its own): one SwiGLU of `shared_expert_intermediate_size`
    through which every token goes besides its K experts.
    """

    family: str
    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    routing: RoutingSpec
    moe_layers: Tuple[int, ...]
    sliding_window: Optional[int] = None
    qk_norm: str = "none"
    attention_bias: Tuple[str, ...] = ()
    tie_word_embeddings: bool = False
    eos_token_ids: Tuple[int, ...] = ()
    bos_token_id: Optional[int] = None
    pad_token_id: Optional[int] = None
    dtype: str = "bfloat16"
    shared_expert: str = "none"
    shared_expert_intermediate_size: int = 0


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do on this machine, decided by a guarded real import and never by package metadata.

    `features`: prefill, decode, reset, chunked_prefill, left_padding, right_padding, nan_pads (a NaN in the embedding of a padding token
    reaches no valid position), pinned, probe, routing, generate, packed, loss, router, slots, capacity, static, train.
    `capacity`: an expert may have a limited number of places, in a prefill and in `Probe.moe_block`, as two LoadSpec.options say. With a
    `capacity_factor` f below E / K an expert takes the first min(T, ceil(T K f / E)) of the choices of it, in the order of the tokens, row
    by row, and all others are dropped: their weight is 0, those of what is left are normalised where the RoutingSpec says so, and a token
    of which nothing is left keeps its residual. T counts the tokens of the batch that is computed (`Padded`). Pads take places as tokens
    do, but with `mask_padding` `true` none. Pinned weights are used as they are for what is left.
    `logits`: what a Request may ask for: all, last, top-<n> (an endpoint that tells the n likeliest tokens and no more).
    `execution`: device | cpu | emulated (a CPU stands in for the device), detail in `execution_note`. `devices`: the kinds that
    LoadSpec.device may name (cpu, cuda, ...) where it chooses; with cpu the backend then runs on a cpu whatever `execution` says.
    `reads_hf`: `load` takes an HF directory as it is. `lossy`: what conversion does not preserve, one sentence each.
    `unavailable`: why it cannot run here, or None. `left_out`: what people would look for here and do not find, and why: one sentence each.
    """

    features: Tuple[str, ...]
    families: Tuple[str, ...]
    dtypes: Tuple[str, ...]
    logits: Tuple[str, ...] = ("all", "last")
    quantizations: Tuple[str, ...] = ()
    variants: Tuple[str, ...] = ()
    execution: str = "cpu"
    execution_note: str = ""
    reads_hf: bool = False
    lossy: Tuple[str, ...] = ()
    unavailable: Optional[str] = None
    devices: Tuple[str, ...] = ()
    left_out: Tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelCapabilities:
    """What one loaded model declares of itself; compared with what is observed."""

    architecture: str
    is_moe: bool
    num_experts: int
    experts_per_token: int
    norm_topk_prob: bool
    max_position_embeddings: int
    sliding_window: Optional[int]
    head_dim_override: bool
    uses_position: bool
    supports_cache_reset: bool
    is_quantized: bool

    @classmethod
    def of(cls, config: ModelConfig) -> ModelCapabilities:
        """Those of a model that does all that its config asks for, unquantised and with a cache that can be reset."""
        return cls(
            architecture=config.architecture,
            is_moe=bool(config.moe_layers),
            num_experts=config.routing.num_experts,
            experts_per_token=config.routing.top_k,
            norm_topk_prob=config.routing.normalize_topk,
            max_position_embeddings=config.max_position_embeddings,
            sliding_window=config.sliding_window,
            head_dim_override=config.head_dim * config.num_attention_heads != config.hidden_size,
            uses_position=True,
            supports_cache_reset=True,
            is_quantized=False,
        )


@dataclass(frozen=True)
class LoadSpec:
    """How to load. `max_length`: positions that the cache must hold. `device`: cpu | cuda | cuda:N | neuron | ... `options`:
    backend-specific, an unknown key is an error."""

    dtype: str = "float32"
    device: str = "cpu"
    max_batch: int = 8
    max_length: int = 512
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Routing:
    """Routing of L MoE layers over T tokens. `router_logits_LTE`: float32, before scores and correction bias; None where a backend cannot
    show them. `topk_ids_LTK`: int64, order within K free. `topk_weights_LTK`: float32, as finally used to combine. `dropped_LTK`: bool, or
    None when the backend has no capacity. `mask_T`: bool, False at pads, whose entries mean nothing."""

    topk_ids_LTK: np.ndarray
    topk_weights_LTK: np.ndarray
    router_logits_LTE: Optional[np.ndarray] = None
    dropped_LTK: Optional[np.ndarray] = None
    mask_T: Optional[np.ndarray] = None


@dataclass(frozen=True)
class PinnedRouting:
    """Experts to use instead of the router's choice. Weights None: the model computes them from its own scores of those experts, normalised
    as its RoutingSpec says."""

    topk_ids_LTK: np.ndarray
    topk_weights_LTK: Optional[np.ndarray] = None


@dataclass(frozen=True)
class Request:
    """What a step shall return. `logits`: all | last (last valid position of each row) | top-<n>, as declared | none. Timed calls ask for
    last and capture nothing. `padding`: side on which a ragged batch is padded. `pinned`: feature `pinned`, T = B*S of this call."""

    logits: str = "last"
    routing: bool = False
    padding: str = "right"
    pinned: Optional[PinnedRouting] = None


@dataclass(frozen=True)
class TopLogProbs:
    """The n likeliest next tokens, likeliest first. `ids_BSN`: int64; `log_probs_BSN`: float32, in nats, over the whole vocabulary. S is
    the call's length, or 1 where only the last valid position is told."""

    ids_BSN: np.ndarray
    log_probs_BSN: np.ndarray


@dataclass(frozen=True)
class StepOutput:
    """`logits_BSV`: float32; S is the call's length for `all`, 1 for `last`; None for `top-<n>`, which fills `top`, and for `none`. Values
    at pads mean nothing."""

    logits_BSV: Optional[np.ndarray]
    routing: Optional[Routing] = None
    top: Optional[TopLogProbs] = None


class Model(Protocol):
    """A loaded model and its KV cache. After load and reset the cache is empty."""

    def capabilities(self) -> ModelCapabilities: ...

    def prefill(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, request: Request) -> StepOutput:
        """APPENDS S positions to the cache. `input_ids_BS` int64; `lengths_B` int64 counts the valid tokens of each row, 1..S.

        Raises Unsupported on a second call where chunked prefill is missing; InvalidInput for an empty prompt, an id outside [0, V), more
        positions than `max_length`, a batch size that differs from the cache's, or lengths that do not fit.
        """
        ...

    def decode(self, token_ids_B: np.ndarray, request: Request) -> StepOutput:
        """One token per row, after its last valid position. InvalidInput before any prefill or past `max_length`."""
        ...

    def reset(self) -> None:
        """Empties the cache; the next prefill must be bit-equal to one after load."""
        ...

    def close(self) -> None:
        """Frees device memory. The model is not used again."""
        ...


class Backend(Protocol):
    """A factory of models."""

    @property
    def name(self) -> str:
        """As given to the registry, variant included (`hf:grouped_mm`)."""
        ...

    def capabilities(self) -> Capabilities: ...

    def from_hf(self, src: str, dst: str) -> None:
        """HF directory -> this backend's own directory, file to file, no device needed. Bit-exact unless declared lossy. `dst` is new or
        empty. Raises CheckpointError and leaves no half-written `dst`."""
        ...

    def to_hf(self, src: str, dst: str) -> None:
        """The inverse: same names, shapes, dtypes and bits; config equal but for `transformers_version`."""
        ...

    def load(self, path: str, spec: LoadSpec) -> Model:
        """Loads what `from_hf` wrote (with `reads_hf`, an HF directory too). Strict: a missing or unknown tensor is a CheckpointError."""
        ...


@runtime_checkable
class Gauge(Protocol):
    """What a device can do, measured through a backend's own framework: what its speeds are held against. Not a feature: a backend has
    these methods or has not."""

    def product_flops_per_s(self, dtype: str, device: str) -> float:
        """Of a large matrix product of this dtype, a multiplication and an addition counting as two."""
        ...

    def read_bytes_per_s(self, size: int, device: str) -> float:
        """Of a buffer of `size` bytes that is read again and again."""
        ...

    def device_peak_bytes(self, device: str) -> Optional[int]:
        """The most of the device's memory that was in use at one time since the last call, all models of the process together; None of a
        host."""
        ...


@dataclass(frozen=True)
class Compilation:
    """What it took to turn calls into graphs, and graphs into code. `exported`: graphs that were traced, `compiled`: those that were to
    become code, with the seconds of each; `cached`: those of them whose code was found where an earlier process had left it.
    `host_operators`: operators that a device left to its host, and how often."""

    exported: int = 0
    export_s: float = 0.0
    compiled: int = 0
    compile_s: float = 0.0
    cached: int = 0
    host_operators: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class Compiler(Protocol):
    """A backend that compiles graphs, or whose device may leave operators to the host. Not a feature: a backend has this method or has
    not."""

    def compilation(self) -> Compilation:
        """Since the last call, all models of the backend's process together."""
        ...


@runtime_checkable
class Padded(Protocol):
    """A model that fills calls up to sizes of its own. Not a feature: a model has this method or has not."""

    def computed_batch(self, rows: int, columns: int) -> Tuple[int, int]:
        """Rows and columns of the batches in which a prefill of so many is computed, one after the other; `columns`: of the longest row. A
        row's tokens stand first and its pads behind them; rows that fill a batch up stand behind the others. `Probe.moe_block` fills up
        to a power of two at most."""
        ...


@runtime_checkable
class Probe(Protocol):
    """Feature `probe`. `layer` counts MoE layers, 0..L-1. `x_TD`: float32, exactly representable in the model's dtype, as it stands after
    the post-attention norm. T may be 0. The KV cache is neither read nor written."""

    def route(self, layer: int, x_TD: np.ndarray) -> Routing:
        """The router alone; the arrays have L = 1."""
        ...

    def moe_block(self, layer: int, x_TD: np.ndarray, pinned: Optional[PinnedRouting] = None) -> np.ndarray:
        """The whole block (router, experts, combine), without the residual: y_TD float32. `pinned` has L = 1."""
        ...


@dataclass(frozen=True)
class GenerationSpec:
    """`temperature` 0 is greedy. `top_k` 0 and `top_p` 1 keep every token. `eos_token_ids` None: the checkpoint's own."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    eos_token_ids: Optional[Tuple[int, ...]] = None


@runtime_checkable
class Generate(Protocol):
    """Feature `generate`. Starts from an empty cache and leaves it empty."""

    def generate(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, spec: GenerationSpec, padding: str = "right") -> List[List[int]]:
        """New ids per row, the EOS that ended it included; a row that ended does not change the others."""
        ...


@runtime_checkable
class Packed(Protocol):
    """Feature `packed`. Several sequences in one row, none seeing another; positions start at 0 in each."""

    def prefill_packed(self, input_ids_T: np.ndarray, cu_seqlens: np.ndarray, request: Request) -> StepOutput:
        """Sequence i is `input_ids_T[cu_seqlens[i] : cu_seqlens[i + 1]]`; int64, from 0 to T, rising. Each fits `max_length`. The KV cache
        is neither read nor written. `logits`: all -> (1, T, V) float32; last -> (1, number of sequences, V). InvalidInput as in
        `prefill`."""
        ...


@runtime_checkable
class Loss(Protocol):
    """Feature `loss`: HF's `labels=`."""

    def loss(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, labels_BS: np.ndarray, padding: str = "right") -> float:
        """Mean cross entropy (nats) of labels_BS[:, s] under the logits at s - 1, over all s whose label is not -100 and where both
        positions are valid; int64. Without the auxiliary load-balancing loss. The KV cache is neither read nor written. InvalidInput as in
        `prefill`, and where no label is left."""
        ...


@runtime_checkable
class Slots(Protocol):
    """Feature `slots`: requests come and go while others are continued (continuous batching). A slot, 0 .. max_batch - 1, holds one
    request. `slots_B`: int64, one for each row of the call, in any order. InvalidInput as in `prefill` and `decode`, for a slot that is
    outside the range, given twice or continued while it is empty, and while `prefill` has filled the cache, as for `prefill` and `decode`
    while slots are in use; `reset` empties all."""

    def prefill_slots(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, slots_B: np.ndarray, request: Request) -> StepOutput:
        """Begins a request in each slot; whatever a slot held is gone."""
        ...

    def decode_slots(self, token_ids_B: np.ndarray, slots_B: np.ndarray, request: Request) -> StepOutput:
        """The next token of each slot's request. The other slots are left as they are."""
        ...


@dataclass(frozen=True)
class GraphProof:
    """What came of tracing one graph for fixed shapes, without running it on anybody's data. `graph`: its kind and sizes. `problem`: why it
    cannot be traced, or "". `dynamic`: values in it whose shape depends on data. `ranges`: constraints on sizes that tracing had to assume.
    `difference`: largest |traced - run as written| of an output."""

    graph: str
    problem: str = ""
    dynamic: int = 0
    ranges: int = 0
    difference: float = 0.0

    @property
    def is_static(self) -> bool:
        return not (self.problem or self.dynamic or self.ranges) and self.difference == 0


@runtime_checkable
class StaticProof(Protocol):
    """Feature `static`: a loaded model whose graphs have one shape each, as ahead-of-time compilers ask."""

    def prove_static(self) -> List[GraphProof]:
        """One for every graph and size that the model may run. The KV cache is empty afterwards."""
        ...


@dataclass(frozen=True)
class RouterWeights:
    """A router's tensors, float32. The second and third stand where the RoutingSpec has `router_bias` and `correction_bias`."""

    weight_ED: np.ndarray
    bias_E: Optional[np.ndarray] = None
    correction_bias_E: Optional[np.ndarray] = None


class Router(Protocol):
    """A router by itself."""

    def route(self, x_TD: np.ndarray) -> Routing:
        """As `Probe.route`; L = 1."""
        ...


@runtime_checkable
class RouterBuilder(Protocol):
    """Feature `router` of a backend: routers without their models, so that routing can be judged before a family's model is there."""

    def router(self, spec: RoutingSpec, weights: RouterWeights, load: LoadSpec) -> Router:
        """Unsupported for a spec that the backend cannot route."""
        ...


@dataclass(frozen=True)
class KernelCall:
    """What one call of a fused MoE kernel is given, on the host. `x_TD`, `router_logits_TE`: float32, exactly representable in the dtype
    under test; `topk_ids_TK`: int64; `topk_weights_TK`: float32. `router_logits_TE` is None where no logits give those weights.
    `renormalize`: whether a kernel that selects for itself divides the K scores by their sum. T may be 0."""

    x_TD: np.ndarray
    topk_ids_TK: np.ndarray
    topk_weights_TK: np.ndarray
    router_logits_TE: Optional[np.ndarray] = None
    renormalize: bool = True


@dataclass(frozen=True)
class KernelResult:
    """What came back. `y`: float32, of whatever shape it had. `problems`: what is wrong besides shape and values, one phrase each (wrong
    dtype or device, an input written to)."""

    y: np.ndarray
    problems: Tuple[str, ...] = ()


class MoEKernel(Protocol):
    """The smallest subject: one fused function x, routing, expert weights -> y. `arguments`: the inputs that it asks for by name."""

    arguments: Tuple[str, ...]

    def load(self, w_gate_up_E2FD: np.ndarray, w_down_EDF: np.ndarray) -> None:
        """Puts the experts' weights, in the dtype under test (bfloat16 as ml_dtypes'), where the following calls find them."""
        ...

    def run(self, calls: Sequence[KernelCall]) -> List[KernelResult]:
        """One call after the other; outputs are read after the last one. Raises Unsupported, and whatever the kernel raises."""
        ...


@runtime_checkable
class GoldenTrainer(Protocol):
    """Feature `train`, of the reference backend alone: makes the golden checkpoints."""

    def train(self, config: ModelConfig, text: bytes, heldout: bytes, steps: int, seed: int, dst: str) -> Dict[str, float]:
        """Trains a byte-level model on `text` and writes an HF directory in bf16. Returns facts measured on `heldout`: steps, loss (bits
        per byte), parameters, load_min and load_max (per-layer expert load over uniform), gap_median (logits between rank K and K+1)."""
        ...
