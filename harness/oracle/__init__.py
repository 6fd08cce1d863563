"""The reference every backend is judged against: numpy float64, unpadded sequences, no cache, written from the papers' formulas."""
