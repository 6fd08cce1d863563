"""The conformance suite: one check = one clause of docs/spec.md. Run with `pytest --pyargs harness.checks --backend NAME`."""
