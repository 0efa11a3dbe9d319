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


LONGEST = (
    "test_slurm_sweep.py", "test_sweep.py", "test_engines.py", "test_kill.py", "test_real_images.py",
    "test_shard_places.py", "test_agreement.py", "test_recipes.py", "test_per_block.py", "test_resume.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that no process is left alone with one at the end."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
