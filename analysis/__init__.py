"""Numbers → science: compute, corrections, recall, fits and plots. No torch; works in a notebook."""
