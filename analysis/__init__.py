"""Analysis of embeddings and runs: compute, corrections, recall, fits, plots. No torch; works in a notebook."""
