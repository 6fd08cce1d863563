"""Observation x bound -> metrics. Pure functions over arrays; no files, no pytest."""
