"""Embeddings of wells: checked, corrected for batches, aggregated to genes."""
