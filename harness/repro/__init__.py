"""The evidence of one failed check in one small file: inputs, outputs, the weights needed, the clause."""
