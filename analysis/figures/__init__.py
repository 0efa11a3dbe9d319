"""Plots, and tables as LaTeX and as text."""
