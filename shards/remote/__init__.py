"""Sets of shards behind a URL."""
