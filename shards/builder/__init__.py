"""Build shards from a table of wells."""
