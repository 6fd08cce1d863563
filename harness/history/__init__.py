"""Runs over time: what differs between two, which one to compare with, steps in series, seals and verification, schemas, retention."""
