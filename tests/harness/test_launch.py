"""What is asked of SLURM follows from the recipe: one task per GPU, and nothing that was not set."""

from pathlib import Path

import pytest

from harness import launch
from harness.recipe_file import load

SCALING = Path(__file__).parents[2] / "recipes" / "scaling.yaml"


def test_slurm_is_asked_for_what_the_recipe_says() -> None:
    recipe = load(SCALING, "slurm", ["launch.slurm.partition=gpu", "launch.slurm.hours=1.5"])
    assert launch.slurm_parameters(recipe, 32) == {
        "job_name": "scaling", "nodes": 32, "ntasks_per_node": 8, "gpus_per_node": 8, "cpus_per_task": 12, "time": 90,
        "array_parallelism": 16, "partition": "gpu",
    }  # fmt: skip


def test_without_an_answer_from_squeue_nothing_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    recipe = load(SCALING, "slurm", [f"output={tmp_path}/out"])
    with pytest.raises(RuntimeError, match="unknown which cells are queued"):
        launch.submit_slurm(recipe, [])
