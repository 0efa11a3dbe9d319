"""Wells to embeddings."""
