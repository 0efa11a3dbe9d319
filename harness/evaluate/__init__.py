"""Evaluate embeddings: recall of known relationships."""
