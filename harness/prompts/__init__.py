"""Golden prompts: clear ones, on which no honest implementation may flip an expert, and near-ties, on which honest ones do."""
