"""Checkpoints and inputs under test: golden and synthetic models, prompts, near ties, Hypothesis strategies."""
