"""The entries of the catalogue, one topic a file: wrong implementations as `FAULTS`, honest ones as `HONEST_VARIANTS`."""
