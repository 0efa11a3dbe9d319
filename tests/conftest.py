"""Fixtures for all tests, including the tiny study. Real images and profiles are read from SCALING_TEST_DATA."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from tiny_study import tiny_images, tiny_recipe, tiny_recipe_file, write_tiny_recipe

__all__ = ["tiny_images", "tiny_recipe", "tiny_recipe_file", "write_tiny_recipe"]

# Tests run in parallel, and for tiny tensors threads cost more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow example only shows that the machine was busy.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public images, annotations and profiles that the real-data tests read."""
    variable = os.environ.get("SCALING_TEST_DATA", "")
    folder = Path(variable) if variable else Path(__file__).parents[1] / ".." / "shared" / "data"
    if not (folder / "README.md").is_file():
        pytest.skip("no real data: set SCALING_TEST_DATA to the folder that holds it")
    return folder.resolve()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker process still runs one when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
