"""Read and write a study's files: ledger, embeddings, weights, training log."""
