"""Runs that start from another's state end like runs that trained straight through, also after kills and on more ranks.

Exercises `harness/checkpoint/start.py` and the start of `harness/train/run.py` in real processes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from distributed.processes import KillAt, run, run_missing
from distributed.tiny import launched, rows, same_weights
from safetensors.torch import load_file

from harness.data.prepare import prepare
from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.storage import ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TRAINING = ["embed=null", "evaluate=null", "grid.untrained=false", "grid.models=[vit_s16]", "grid.datasets=[two]"]
ENDS = "train.schedule={name: warmup_stable_decay, ends: [0.25, 0.5, 1.0]}"  # 12, 24 and 48 steps


def study(write: Callable[[Path], Path], folder: Path, *overrides: str) -> tuple[Recipe, list[Cell]]:
    """The tiny study's one trained model with its shards, and its cells, each after the one that it starts from."""
    folder.mkdir()
    recipe = load(write(folder), "laptop", [*TRAINING, *overrides])
    prepare(recipe)
    return recipe, cells(recipe)


def finals(grid: list[Cell]) -> list[Cell]:
    return [cell for cell in grid if cell.kind == "trained"]


def test_branches_of_a_killed_trunk_equal_runs_straight_through(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Two segments and three branches, each killed three times, with stochastic depth; then each end alone."""
    recipe, grid = study(write_tiny_recipe, tmp_path / "branched", ENDS)
    assert [cell.kind for cell in grid] == ["segment", "segment", "trained", "trained", "trained"]
    generator = random.Random(0)
    for cell in grid:
        for _ in range(3):
            kill = KillAt(0, steps=generator.randint(1, 2))
            codes = run(1, run_missing, launched(recipe, checkpoint_minutes=1e-6), cell.id, kill)
            assert codes in ([-9], [0])  # a short decay may be over
        assert run(1, run_missing, recipe.model_dump_json(), cell.id) == [0]
    for cell in finals(grid):
        assert cell.training is not None
        schedule = f"train.schedule={{name: warmup_stable_decay, ends: [{cell.training.end}]}}"
        alone, (same,) = study(write_tiny_recipe, tmp_path / cell.id, schedule)
        assert same.id == cell.id
        assert run(1, run_missing, alone.model_dump_json(), same.id) == [0]
        branch, straight = cell_folder(recipe, cell), cell_folder(alone, same)
        assert same_weights(branch, straight)
        assert rows(branch, "validation") == rows(straight, "validation")
        assert not (branch / "checkpoints").exists()
    assert not list(recipe.output.glob("cells/*/checkpoints")), "a state stays only while a cell is to start from it"


@pytest.mark.parametrize(("engine", "world"), [("fsdp", 2)])
def test_branches_of_a_trunk_on_more_ranks_equal_runs_on_one_to_rounding(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, engine: str, world: int
) -> None:
    """The trunk on two ranks, its branches on one. Stochastic depth is off: it draws from each rank's generator. AdamW,
    because Lion's signs turn a rounding error into a whole step."""
    smooth = [ENDS, "models.vit_s16.drop_path=0", "train.optimiser.name=adamw"]
    recipe, grid = study(write_tiny_recipe, tmp_path / "many", *smooth)
    single, same = study(write_tiny_recipe, tmp_path / "one", *smooth)
    for cell in grid:
        ranks, choice = (world, engine) if cell.kind == "segment" else (1, "auto")
        assert run(ranks, run_missing, launched(recipe, engine=choice), cell.id) == [0] * ranks
    for cell in same:
        assert run(1, run_missing, single.model_dump_json(), cell.id) == [0]
    for cell in finals(grid):
        one, many = (rows(cell_folder(study, cell), "validation") for study in (single, recipe))
        assert [row["step"] for row in many] == [row["step"] for row in one]
        losses = [[row["validation_loss"] for row in log] for log in (many, one)]
        assert losses[0] == pytest.approx(losses[1], abs=5e-6)


def test_snapshots_change_no_run(write_tiny_recipe: Callable[[Path], Path], tmp_path: Path) -> None:
    """A cosine that is cut for two snapshots ends like one that is not; early stopping counts alike."""
    early = "train.early_stopping={patience: 2, min_delta: 0.02}"
    cut, grid = study(write_tiny_recipe, tmp_path / "cut", early, "train.snapshots=[0.2, 0.6]")
    whole, (same,) = study(write_tiny_recipe, tmp_path / "whole", early)
    for cell in grid:
        assert run(1, run_missing, cut.model_dump_json(), cell.id) == [0]
    assert run(1, run_missing, whole.model_dump_json(), same.id) == [0]
    (final,) = finals(grid)
    assert final.id == same.id
    assert same_weights(cell_folder(cut, final), cell_folder(whole, same))
    assert rows(cell_folder(cut, final), "validation") == rows(cell_folder(whole, same), "validation")
    first, second = (ledger.read(cut.output, cell.id, "train") for cell in grid[:2])
    assert first is not None
    assert second is not None
    assert [row.values["steps"] for row in (first, second)] == [10, 29]  # of 48, at the nearest step
    assert not first.values["annealed"]
    assert first.values["validation_loss"] > second.values["validation_loss"]


def test_a_run_continues_another_with_its_weights_and_moments_and_a_schedule_of_its_own(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Killed and resumed on the way. Its first validation is ahead of a run with random weights at the same step."""
    still = ["train.start_from={two: one}", "grid.datasets=[one, two]", "train.optimiser.name=adamw"]
    recipe, grid = study(write_tiny_recipe, tmp_path / "continued", *still)
    one, two = grid
    assert two.start is not None
    assert (two.start.id, two.begins_run) == (one.id, True)
    kill = KillAt(0, steps=5)
    assert run(1, run_missing, recipe.model_dump_json(), one.id) == [0]
    assert (cell_folder(recipe, one) / "checkpoints" / "latest").exists()
    assert run(1, run_missing, launched(recipe, checkpoint_minutes=1e-6), two.id, kill) == [-9]
    assert run(1, run_missing, recipe.model_dump_json(), two.id) == [0]
    rows_of = {cell.id: ledger.read(recipe.output, cell.id, "train") for cell in grid}
    before, after = (rows_of[cell.id] for cell in grid)
    assert before is not None
    assert after is not None
    assert after.values["start"] == one.id
    assert after.values["crops"] == before.values["crops"] + after.values["steps"] * 8
    validations = rows(cell_folder(recipe, two), "validation")
    assert validations[0]["step"] == 16  # its own steps
    assert validations[0]["crops"] == before.values["crops"] + 16 * 8
    weights = [load_file(cell_folder(recipe, cell) / "model.safetensors") for cell in grid]
    assert any(not weights[0][name].equal(weights[1][name]) for name in weights[0])
    fresh, (from_random,) = study(write_tiny_recipe, tmp_path / "fresh", "train.optimiser.name=adamw")
    assert from_random.id != two.id
    assert run(1, run_missing, fresh.model_dump_json(), from_random.id) == [0]
    at_random = rows(cell_folder(fresh, from_random), "validation")
    assert validations[0]["validation_loss"] < at_random[0]["validation_loss"]
