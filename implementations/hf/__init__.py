"""Hugging Face transformers: the reference backend, and the trainer of the golden models."""
