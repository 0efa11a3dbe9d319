"""The best learning rate of each model size, and how it moves."""
