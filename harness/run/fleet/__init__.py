"""One run over many machines: the checks in shares, each done by a machine with what the backend needs, the records brought home."""
