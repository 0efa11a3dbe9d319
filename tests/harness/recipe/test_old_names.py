"""A recipe with a field's old name is read as before, with a note; both names at once are refused."""

from pathlib import Path

import pytest

from harness.recipe.errors import RecipeError
from harness.recipe.load import load

RECIPE = """name: tiny
output: runs/tiny
datasets:
  all: {shards: shards/all}
models:
  vit_s16: {size: S, width: 48, depth: 2, heads: 3, patch: 16}
mae: {crop: 64}
grid: {models: [vit_s16], datasets: [all]}
launch:
  embed_jobs: 2
profiles:
  laptop: {}
  slurm:
    launch: {embed_jobs: 8}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_an_old_name_is_read_at_its_place_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = written(tmp_path, RECIPE.replace("embed_jobs", "embed_elements"))
    assert (load(old, "laptop").launch.embed_jobs, load(old, "slurm").launch.embed_jobs) == (2, 8)
    note = "launch.embed_elements is now called launch.embed_jobs; the old name is still read"
    assert f"note: {old}:10: {note}" in capsys.readouterr().err


def test_a_profile_may_use_another_name_than_the_recipe(tmp_path: Path) -> None:
    mixed = written(tmp_path, RECIPE.replace("{embed_jobs: 8}", "{embed_elements: 8}"))
    assert (load(mixed, "laptop").launch.embed_jobs, load(mixed, "slurm").launch.embed_jobs) == (2, 8)


def test_an_override_may_use_the_old_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load(written(tmp_path, RECIPE), "laptop", ["launch.embed_elements=5"])
    assert recipe.launch.embed_jobs == 5
    assert "note: argument 'launch.embed_elements=5': launch.embed_elements is now called" in capsys.readouterr().err


def test_the_new_name_needs_no_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load(written(tmp_path, RECIPE), "slurm").launch.embed_jobs == 8
    assert capsys.readouterr().err == ""


def test_both_names_at_once_are_refused(tmp_path: Path) -> None:
    both = written(tmp_path, RECIPE.replace("  embed_jobs: 2\n", "  embed_jobs: 2\n  embed_elements: 3\n"))
    with pytest.raises(RecipeError, match=r"recipe.yaml:11: launch.embed_elements is the old name of embed_jobs"):
        load(both, "laptop")


def test_a_wrong_value_is_refused_under_the_new_name_at_the_old_line(tmp_path: Path) -> None:
    wrong = written(tmp_path, RECIPE.replace("  embed_jobs: 2", "  embed_elements: none"))
    with pytest.raises(RecipeError, match=r"recipe.yaml:10: launch.embed_jobs: input should be a valid integer"):
        load(wrong, "laptop")
