"""The native backend: every family here written from scratch in PyTorch, one code for CPU and CUDA."""
