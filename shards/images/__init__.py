"""Where an image is, and decoding it."""
