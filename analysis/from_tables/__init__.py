"""Measures of tables of wells, as `python -m analysis.evaluate` takes them."""
