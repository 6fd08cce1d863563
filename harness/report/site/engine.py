"""Which engine a backend's name means, and which version of it a run used."""

from __future__ import annotations

from moe_harness.records.frame import Run

# The distribution whose version an engine's users speak of, where it is not called like the engine.
PACKAGES = {"hf": "transformers", "native": "moe-harness", "te": "transformer-engine", "neuron": "neuronx-distributed-inference",
            "llamacpp": "llama-cpp-python", "candle": "candle-nn"}  # fmt: skip


def engine(backend: str) -> str:
    """hf:grouped_mm -> hf; a module's factory (package.module:factory) is an engine of its own."""
    head = backend.partition(":")[0]
    return backend if "." in head or not head else head


def version(name: str, run: Run) -> str:
    """ "transformers 5.23.0", or the commit where no package tells."""
    packages = run.environment.get("packages") or {}
    package = PACKAGES.get(name, name)
    if package in packages and package != "moe-harness":
        return f"{package} {packages[package]}"
    commit = run.environment.get("commit")
    return f"commit {str(commit)[:10]}" if commit else f"{package} {packages.get(package, 'of unknown version')}"
