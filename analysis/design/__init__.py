"""Which run to do next, and compute-optimal sizes of models and data."""
