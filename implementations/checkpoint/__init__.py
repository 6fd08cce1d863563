"""HF checkpoints on disk: strict reading, streamed writing."""
