"""The file formats of a shard set."""
