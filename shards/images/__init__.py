"""Locate and decode images."""
