"""What is raised when a shard set cannot be trusted."""


class ShardError(ValueError):
    """A shard set is damaged, incomplete or of another version; the message names the file."""
