"""All about executing the suite: the pytest plug-in, launching, expectations, recording, budget, fleet."""
