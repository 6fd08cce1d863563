"""Fused MoE functions as subjects: what they may ask for, the hosts that call them, and examples of adapters."""
