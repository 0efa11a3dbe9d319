"""Which run to do next, compute-optimal sizes and epochs, and comparisons of variants of a recipe."""
