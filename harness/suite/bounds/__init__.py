"""Calibrated bounds: the limits that follow from measured numerically equivalent variants."""
