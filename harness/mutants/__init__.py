"""The catalogue: real bugs and numerically equivalent variants, each as a change of one hook of the emulator."""
