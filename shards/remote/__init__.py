"""Read sets of shards by URL."""
