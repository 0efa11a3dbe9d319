"""Fixtures for all, the tiny study among them. Real images and profiles: where SCALING_TEST_DATA points."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from tiny_study import tiny_images, tiny_recipe, tiny_recipe_file, write_tiny_recipe

__all__ = ["tiny_images", "tiny_recipe", "tiny_recipe_file", "write_tiny_recipe"]

# Tests run side by side, and tiny tensors lose more to threads than they gain.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# An example that took long says that the machine was busy, not that the code is wrong.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public images, annotations and profiles that the real-data tests read."""
    named = os.environ.get("SCALING_TEST_DATA", "")
    folder = Path(named) if named else Path(__file__).parents[1] / ".." / "shared" / "data"
    if not (folder / "README.md").is_file():
        pytest.skip("no real data: set SCALING_TEST_DATA to the folder that holds it")
    return folder.resolve()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
