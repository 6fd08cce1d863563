"""Make golden data: training, HF's outputs, prompt search, calibration of bounds."""
