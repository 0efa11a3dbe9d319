"""What a study leaves on disk: ledger, embeddings, weights, training log."""
