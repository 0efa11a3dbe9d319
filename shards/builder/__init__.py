"""A table of wells to shards."""
