"""HF checkpoints: strict reading, canonical weights, streamed writing."""
