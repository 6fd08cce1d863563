"""The corpus: bugs of MoE implementations that were reported in public, and reports that turned out to be none.

Each with the entries of the catalogue that express it, or the reason why none can.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from moe_harness.mutants.catalogue import entries
from moe_harness.mutants.entry import GITHUB

BACKWARD = "needs gradients: the contract has no backward pass"
AUXILIARY = "needs the load-balancing loss, which the contract leaves out"


@dataclass(frozen=True)
class Report:
    """`topic`: where the mistake lies; "benign": there was none. `entries`: ids in the catalogue that re-create the root cause, or, of a
    benign report, what was taken for a bug. `inexpressible`: why there are none."""

    id: str
    url: str
    topic: str
    entries: tuple[str, ...] = ()
    inexpressible: str = ""

    @property
    def benign(self) -> bool:
        return self.topic == "benign"


@dataclass(frozen=True)
class Coverage:
    """Bugs of the corpus: killed, all of whose entries die; expressed by entries; all."""

    killed: int
    expressed: int
    total: int


def _report(name: str, where: str, topic: str, *ids: str, inexpressible: str = "") -> Report:
    return Report(name, f"{GITHUB}/{where}", topic, ids, inexpressible)


def _alike(name: str, where: str, topic: str) -> Report:
    """One entry of the same id."""
    return _report(name, where, topic, name)


REPORTS: tuple[Report, ...] = (
    _report("automodel-1408-aux-discarded", "NVIDIA-NeMo/Automodel/issues/1408", "auxiliary loss", inexpressible=BACKWARD),
    _report("tf-28255-cross-layer-concat", "huggingface/transformers/issues/28255", "auxiliary loss", inexpressible=AUXILIARY),
    _report("tf-29363-hardcoded-2", "huggingface/transformers/pull/29363", "auxiliary loss", inexpressible=AUXILIARY),
    _alike("tf-45120-double-softmax", "huggingface/transformers/issues/45120", "auxiliary loss"),
    _report("sglang-26133-padded-amax", "sgl-project/sglang/pull/26133", "batch and padding",
            "sglang-26133-batch-amax", "sglang-26133-stale-workspace"),
    _alike("bigmoe-113-top1-layout", "Helldez/BigMoeOnEdge/pull/113", "capacity and permutation"),
    _alike("ds-8155-capacity-gt-tokens", "deepspeedai/DeepSpeed/pull/8155", "capacity and permutation"),
    _alike("megatron-5542-padding-capacity", "NVIDIA/Megatron-LM/pull/5542", "capacity and permutation"),
    _alike("slime-822-pad-same-expert", "THUDM/slime/issues/822", "capacity and permutation"),
    _alike("bridge-4706-fused-skip", "NVIDIA-NeMo/Megatron-Bridge/pull/4706", "conversion"),
    _alike("llamacpp-3364-gqa-permute", "ggml-org/llama.cpp/pull/3364", "conversion"),
    _alike("mlxvlm-1073-dense-fallback", "Blaizzy/mlx-vlm/issues/1073", "conversion"),
    _alike("sglang-20127-tied", "sgl-project/sglang/pull/20127", "conversion"),
    _report("automodel-2591-bias-unweighted", "NVIDIA-NeMo/Automodel/pull/2591", "experts",
            inexpressible="needs experts with biases, which no family of the contract has"),
    _report("mslk-158-wgrad-empty", "meta-pytorch/MSLK/pull/158", "experts", inexpressible=BACKWARD),
    _alike("sglang-16972-one-token-path", "sgl-project/sglang/issues/16972", "experts"),
    _alike("sonicmoe-63-tile-abs-tol", "Dao-AILab/sonic-moe/issues/63", "experts"),
    _alike("tf-48205-ep-nan-sentinel", "huggingface/transformers/pull/48205", "experts"),
    _alike("vllm-29273-interleave", "vllm-project/vllm/pull/29273", "experts"),
    _report("mlxvlm-2112-eos-replace", "Blaizzy/mlx-vlm/pull/2112", "generation",
            "mlxvlm-2112-eos-replace", "mlxvlm-2112-eos-list-in-config"),
    _alike("megatron-ds-351-theta", "deepspeedai/Megatron-DeepSpeed/pull/351", "attention and cache"),
    _report("nxdi-133-mla-slice", "aws-neuron/neuronx-distributed-inference/pull/133", "attention and cache",
            inexpressible="needs multi-head latent attention, which no family of the contract has"),
    _alike("tf-37574-swa-roll", "huggingface/transformers/issues/37574", "attention and cache"),
    _alike("vllm-16311-qknorm-across-heads", "vllm-project/vllm/pull/16311", "attention and cache"),
    _report("tf-48131-aux-onehot", "huggingface/transformers/pull/48131", "memory",
            inexpressible="a matter of peak memory, in the load-balancing loss, which the contract leaves out"),
    _report("ds-6545-expert-grad-scale", "deepspeedai/DeepSpeed/issues/6545", "parallelism", inexpressible=BACKWARD),
    _alike("gguf-103-rank0-shard", "vllm-project/vllm-gguf-plugin/issues/103", "parallelism"),
    _alike("tpuinf-3435-missing-reduce", "vllm-project/tpu-inference/pull/3435", "parallelism"),
    _alike("vllm-49378-aria-double-allreduce", "vllm-project/vllm/pull/49378", "parallelism"),
    _report("sonicmoe-60-recompile", "Dao-AILab/sonic-moe/issues/60", "speed",
            inexpressible="a matter of how often kernels are compiled; every result is right"),
    _alike("ascend-13414-first-expert-scale", "vllm-project/vllm-ascend/pull/13414", "quantisation"),
    _alike("flashinfer-4087-scale-interleave", "flashinfer-ai/flashinfer/issues/4087", "quantisation"),
    _alike("flashinfer-2822-all-negative-logits", "flashinfer-ai/flashinfer/issues/2822", "routing"),
    _alike("group-mask-zero-negative-bias", "flashinfer-ai/flashinfer/issues/2168", "routing"),
    _alike("megablocks-87-top1-norm-dim", "databricks/megablocks/pull/87", "routing"),
    _alike("megatron-894-top1-postsoftmax", "NVIDIA/Megatron-LM/issues/894", "routing"),
    _alike("mole-7-hardcoded-topk", "JieShibo/MoLE/issues/7", "routing"),
    _alike("sglang-35160-raw-logits-weights", "sgl-project/sglang/pull/35160", "routing"),
    _alike("sglang-8125-unsorted-topk-replace", "sgl-project/sglang/pull/8125", "routing"),
    _alike("torchtitan-1448-no-renorm", "pytorch/torchtitan/issues/1448", "routing"),
    _report("vllm-13474-group-topk", "vllm-project/vllm/pull/13474", "routing",
            "vllm-13474-group-by-best", "vllm-13474-masked-with-zero"),
    _report("vllm-23640-bias-dtype", "vllm-project/vllm/pull/23640", "routing",
            "vllm-23640-correction-cast", "vllm-23640-correction-in-bfloat16"),
    _report("freetoken-463-inplace", "FlashML-org/FreeToken/pull/463", "shared expert",
            "freetoken-463-shared-after-inplace", "freetoken-463-inplace"),
    _alike("nous-titan-36-gate-dropped", "NousResearch/torchtitan/pull/36", "shared expert"),
    _report("benign-aux-factor-k", "huggingface/transformers/issues/43688", "benign", inexpressible=AUXILIARY),
    _alike("benign-bf16-expert-flip", "TransformerLensOrg/TransformerLens/pull/521", "benign"),
    _alike("benign-ds-780-misread", "deepseek-ai/DeepSeek-V3/issues/780", "benign"),
    _alike("benign-litgpt-2014", "Lightning-AI/litgpt/pull/2014", "benign"),
    _alike("benign-megatron-955", "NVIDIA/Megatron-LM/issues/955", "benign"),
    _alike("benign-sorted-dispatch", "jingyaogong/minimind/pull/837", "benign"),
    _alike("benign-static-vs-hit-loop", "huggingface/transformers/pull/46929", "benign"),
    _alike("benign-trtllm-2752", "NVIDIA/TensorRT-LLM/pull/2752", "benign"),
)  # fmt: skip

BUGS: tuple[Report, ...] = tuple(report for report in REPORTS if not report.benign)
BENIGN: tuple[Report, ...] = tuple(report for report in REPORTS if report.benign)


def coverage(killed: Set[str]) -> Coverage:
    """Counts a bug as killed where every one of its entries is among `killed`, ids of faults. Raises ValueError for an unknown id."""
    if unknown := killed - entries().keys():
        raise ValueError(f"not in the catalogue: {', '.join(sorted(unknown))}")
    expressed = [report for report in BUGS if report.entries]
    return Coverage(sum(set(report.entries) <= killed for report in expressed), len(expressed), len(BUGS))
