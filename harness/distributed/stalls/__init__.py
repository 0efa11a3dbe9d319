"""Ranks that stand still, or are slow: noticed, named, and ended."""
