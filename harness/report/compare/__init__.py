"""The differences between runs: diff, baseline, trends, verification, retention."""
