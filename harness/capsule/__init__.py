"""The evidence of one failed check in one small file: what was asked, what came, the weights needed, the clause."""
