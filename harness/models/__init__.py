"""Networks, their configurations, and the files of their weights."""
