"""Code that several PyTorch backends share."""
