"""Which run to do next, compute-optimal sizes, and comparisons of variants of a recipe."""
