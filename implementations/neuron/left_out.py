"""What Neuron's own libraries have and this backend leaves out, and why."""

from __future__ import annotations

LEFT_OUT = (
    "Fused kernels (NKI attention, blockwise expert kernels): they exist for the device alone; here the same sums are separate operators.",
    "Caching of experts' weights: a memory policy of the device, without a say in what is computed.",
    "Speculation (draft models, EAGLE, Medusa): with greedy choice it gives the same tokens, and no draft models are here to try it with.",
    "Dynamic capacity: its shapes depend on data, which no graph of one shape can have.",
    "Quantised weights and cache: the bounds of the suite are for float32, bfloat16 and float16.",
    "Pipeline parallelism: whole layers to a process say nothing about how experts are split.",
    "OLMoE: its query and key norms run over all heads, which are spread over the processes.",
    "Packed sequences and the loss: Neuron's inference graphs have neither.",
)
