"""Shared layers: blocks, attention, normalisation, masking and losses."""
