"""The tiny study of tests/harness, for several processes."""

from tests.harness.conftest import tiny_images, tiny_recipe, tiny_recipe_file, write_tiny_recipe

__all__ = ["tiny_images", "tiny_recipe", "tiny_recipe_file", "write_tiny_recipe"]
