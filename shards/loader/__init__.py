"""Batches of crops for training."""
