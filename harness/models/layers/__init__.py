"""Blocks, attention, masking and losses that the networks share."""
