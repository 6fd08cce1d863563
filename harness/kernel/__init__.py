"""The kernel door: one fused MoE function, judged case by case against the oracle."""
