"""The Neuron backend: the model as Neuron needs it, static in every shape and split over processes, in plain PyTorch."""
