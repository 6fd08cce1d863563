"""The judge: cases, oracle, verdicts, checks, benchmarks, records and reports. Never imports torch or transformers."""
