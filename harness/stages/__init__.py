"""Find the missing stages of a grid cell, and run them."""
