"""Floors: what honest implementations are off by, measured over many of them, and the limits that follow."""
