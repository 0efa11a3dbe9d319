"""Plots and LaTeX tables."""
