"""Forecasts of cells that have not run: sealed when they are made, and scored once the cells are done."""
