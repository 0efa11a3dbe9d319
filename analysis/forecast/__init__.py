"""Forecasts of runs: the final loss of one that is still training, and how sealed predictions did."""
