"""The subjects: one folder per backend, all behind `implementations.interface`. Never imports `harness`."""
