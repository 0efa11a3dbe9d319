"""Crops and wells out of a set of shards."""
