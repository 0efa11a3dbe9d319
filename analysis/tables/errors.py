"""The error of a table that cannot be used."""


class TableError(ValueError):
    """A table that cannot be used; the message says where and what would be right."""
