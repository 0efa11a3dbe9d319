"""Save and resume training runs."""
