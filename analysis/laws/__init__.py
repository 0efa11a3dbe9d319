"""Scaling laws: their forms, priors and starting points."""
