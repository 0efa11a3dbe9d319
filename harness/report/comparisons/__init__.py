"""The panels of a grid with axes: compute multipliers of variants, and best learning rates."""
