"""A low-precision numpy reference model with hooks at every step: it sets bounds at run time and carries the mutants."""
