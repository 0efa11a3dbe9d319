"""The bytes of a shard."""
