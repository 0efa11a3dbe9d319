"""Fit laws to points: estimates, intervals and a checklist."""
