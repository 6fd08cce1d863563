"""The harness measured: a numpy subject with named seams, and a catalogue of real bugs and honest variants as changes of a seam."""
