"""Embeddings to recall."""
