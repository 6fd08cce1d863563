"""The subjects: one folder per backend, all behind `moe_harness.interface`. Never imports `harness`."""
