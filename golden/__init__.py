"""Golden data: tiny trained checkpoints, held-out text, and what was measured on them. Data only, no code."""
