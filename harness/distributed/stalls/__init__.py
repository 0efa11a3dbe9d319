"""Ranks that stand still: noticed, named, and ended."""
