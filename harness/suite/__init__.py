"""All that a check is written with: subject, verdict status, backend processes, drivers, bounds, profiles."""
