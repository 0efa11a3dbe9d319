"""Read crops and wells from a set of shards."""
