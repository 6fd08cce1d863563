"""The native backend: Mixtral and Qwen3-MoE written from scratch in PyTorch, one code for CPU and CUDA."""
