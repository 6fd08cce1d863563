"""Statistics without input or output: intervals, ratios, change points, tolerance limits."""
