"""Exceptions of the package."""


class ShardError(ValueError):
    """A shard set is damaged, incomplete or of another version; the message names the file."""


class LayoutError(ValueError):
    """The images or tables on disk do not match their layout; the message names file and line."""


class ImageError(ValueError):
    """An image cannot be used; the message names it."""


class BuildError(ValueError):
    """A build cannot continue with these options, or in this folder."""
