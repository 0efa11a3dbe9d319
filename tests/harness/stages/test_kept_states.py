"""Covers what `missing` and `run` do with final training states: which are needed, kept, lost and trained again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.checkpoint.final_state import has_final_state
from harness.data.prepare import prepare
from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.plan.cost import plan_cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages import run as run_module
from harness.stages.missing import CellWork, StageError, missing_stages
from harness.stages.run import run_cell, run_stage
from harness.storage import ledger
from harness.storage.ledger import LedgerRow

TRAINING = ["embed=null", "evaluate=null", "grid.untrained=false", "grid.models=[vit_s16]", "train.epochs=2"]
ENDS = "train.schedule={name: warmup_stable_decay, decay: 0.5, ends: [0.5, 1.0]}"


def study(path: Path, *overrides: str) -> tuple[Recipe, list[Cell]]:
    recipe = load(path, "laptop", [*TRAINING, "grid.datasets=[two]", *overrides])
    prepare(recipe)
    return recipe, cells(recipe)


def missing(recipe: Recipe) -> list[bool]:
    """Of each cell in turn, whether it lacks a stage."""
    return [bool(missing_stages(recipe, cell).missing) for cell in cells(recipe)]


def train(recipe: Recipe, cell: Cell) -> None:
    run_cell(recipe.model_dump_json(), cell.id)


def state(recipe: Recipe, cell: Cell) -> bool:
    row = ledger.read(recipe.output, cell.id, "train")
    assert row is not None
    return has_final_state(cell_folder(recipe, cell), row.values["steps"])


@pytest.mark.slow
def test_a_state_is_kept_until_its_last_heir_is_trained(tiny_recipe_file: Path) -> None:
    recipe, (trunk, half, full) = study(tiny_recipe_file, ENDS)
    assert missing(recipe) == [True, True, True]
    train(recipe, trunk)
    assert state(recipe, trunk)
    train(recipe, full)
    assert state(recipe, trunk)
    assert missing(recipe) == [False, True, False]
    train(recipe, half)
    assert not (cell_folder(recipe, trunk) / "checkpoints").exists()
    assert missing(recipe) == [False, False, False]


@pytest.mark.slow
def test_a_segment_whose_state_is_gone_is_trained_again_only_for_a_new_branch(tiny_recipe_file: Path) -> None:
    recipe, grid = study(tiny_recipe_file, ENDS)
    for cell in grid:
        train(recipe, cell)
    more = "train.schedule={name: warmup_stable_decay, decay: 0.5, ends: [0.5, 0.8, 1.0]}"
    extended, longer = study(tiny_recipe_file, more)
    lacking = {cell.id.rsplit("-", 1)[0] for cell, lacks in zip(longer, missing(extended), strict=True) if lacks}
    assert lacking == {f"vit_s16-two-s0-{part}" for part in ("until0.25", "until0.4", "end0.8")}
    for cell in longer:
        train(extended, cell)
    assert missing(extended) == [False] * len(longer)
    assert not list(extended.output.glob("cells/*/checkpoints"))


@pytest.mark.slow
def test_a_segment_that_is_killed_while_it_is_trained_again_is_not_taken_for_done(tiny_recipe_file: Path) -> None:
    recipe, (trunk, half, _) = study(tiny_recipe_file, ENDS)
    train(recipe, trunk)
    row = ledger.read(recipe.output, trunk.id, "train")
    assert row is not None
    assert not has_final_state(cell_folder(recipe, trunk), row.values["steps"] + 1)
    shutil.rmtree(cell_folder(recipe, trunk))
    assert missing(recipe) == [True, True, True]
    with pytest.raises(StageError, match=f"starts from the training state of {trunk.id}, which was not kept"):
        train(recipe, half)
    train(recipe, trunk)
    train(recipe, half)


def test_a_cell_before_its_start_is_refused_by_name(tiny_recipe_file: Path) -> None:
    recipe, (trunk, half, _) = study(tiny_recipe_file, ENDS)
    with pytest.raises(StageError, match=f"cell {half.id} starts from {trunk.id}, which is not trained yet"):
        run_stage(recipe, half, "train")


def test_a_finished_run_without_its_state_is_not_trained_again_unasked(tiny_recipe_file: Path) -> None:
    """It may have taken months; the message says how it could be."""
    both = "grid.datasets=[one, two]"
    recipe, (one, _) = study(tiny_recipe_file, both)
    train(recipe, one)
    continued, (_, two) = study(tiny_recipe_file, both, "train.start_from={two: one}")
    with pytest.raises(StageError, match=r"was not kept: remove .*train\.json to train that again"):
        missing_stages(continued, two)


def test_kept_states_let_a_later_recipe_continue_a_finished_run(tiny_recipe_file: Path) -> None:
    both = ["grid.datasets=[one, two]", "launch.keep_states=true"]
    recipe, (one, _) = study(tiny_recipe_file, *both)
    train(recipe, one)
    assert state(recipe, one)
    continued, (_, two) = study(tiny_recipe_file, *both, "train.start_from={two: one}")
    train(continued, two)
    row = ledger.read(continued.output, two.id, "train")
    assert row is not None
    assert row.values["start"] == one.id
    assert state(continued, one)
    assert state(continued, two)


def test_a_branch_s_log_begins_with_its_trunk_s_whatever_an_earlier_try_left(
    tiny_recipe_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A try that was killed before its first save leaves a log, and an empty folder of checkpoints."""
    recipe, (trunk, half, full) = study(tiny_recipe_file, ENDS, "train.validations=8")
    train(recipe, trunk)
    (cell_folder(recipe, half) / "checkpoints").mkdir(parents=True)
    (cell_folder(recipe, half) / "train.jsonl").write_text('{"kind": "train", "step": 1, "loss": 9.0}\n' * 3)
    train(recipe, half)
    before, after = ((cell_folder(recipe, cell) / "train.jsonl").read_bytes() for cell in (trunk, half))
    assert after.startswith(before)
    assert len(after) > len(before) > 0
    (cell_folder(recipe, trunk) / "train.jsonl").unlink()
    train(recipe, full)
    assert "train.jsonl begins without it" in capfd.readouterr().err
    assert b'"loss"' in (cell_folder(recipe, full) / "train.jsonl").read_bytes()


def test_a_damaged_state_is_refused_with_what_to_do(tiny_recipe_file: Path) -> None:
    recipe, (trunk, half, _) = study(tiny_recipe_file, ENDS)
    train(recipe, trunk)
    (file,) = (cell_folder(recipe, trunk) / "checkpoints").glob("step-*/__0_0.distcp")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        RuntimeError, match=f"the state that this cell starts from is damaged.* trains {trunk.id} again"
    ):
        train(recipe, half)
    shutil.rmtree(cell_folder(recipe, trunk))
    assert missing(recipe)[0]


@pytest.mark.slow
def test_branches_of_a_continued_run_count_the_crops_of_the_run_before_it(tiny_recipe_file: Path) -> None:
    """32 wells in 4 batches an epoch of 8; `one` has half of them, so 2 epochs are 4 steps, and 8 of `two`."""
    both = ["grid.datasets=[one, two]", "train.start_from={two: one}"]
    recipe, grid = study(tiny_recipe_file, ENDS, *both)
    for cell in grid:
        train(recipe, cell)
    crops = {}
    for cell in grid:
        row = ledger.read(recipe.output, cell.id, "train")
        assert row is not None
        assert cell.training is not None
        crops[cell.dataset, cell.kind, cell.training.share] = (row.values["crops"], row.values["steps"])
    whole = crops["one", "trained", 1.0][0]
    assert {place: values[0] - 8 * values[1] for place, values in crops.items()} == {
        place: whole if place[0] == "two" else 0 for place in crops
    }
    planned = {plan.cell.id: plan.crops + plan.crops_before for plan in plan_cells(recipe, grid)}
    assert list(planned.values()) == [values[0] for values in crops.values()]


def test_a_state_is_not_deleted_while_it_is_trained(tiny_recipe_file: Path) -> None:
    """A snapshot is added to a finished run, whose evaluation runs again while the snapshot trains."""
    recipe, (snapshot, whole) = study(tiny_recipe_file, "train.snapshots=[0.5]")
    ledger.record(recipe.output, LedgerRow(whole.id, "train", "x", {"steps": 8}))
    saved = cell_folder(recipe, snapshot) / "checkpoints" / "step-000000002"
    saved.mkdir(parents=True)
    run_module._release_state(recipe, snapshot)
    assert saved.exists()
    ledger.record(recipe.output, LedgerRow(snapshot.id, "train", "x", {"steps": 4}))
    run_module._release_state(recipe, snapshot)
    assert not saved.exists()


def test_checkpoints_that_a_killed_process_left_are_deleted_after_the_next_stage(
    tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed between the row of its training and their deletion."""
    recipe, (cell,) = study(tiny_recipe_file)
    ledger.record(recipe.output, LedgerRow(cell.id, "train", "x", {"steps": 8}))
    saved = cell_folder(recipe, cell) / "checkpoints" / "step-000000008"
    saved.mkdir(parents=True)
    monkeypatch.setitem(run_module._RUN, "evaluate", lambda run, control: {})
    run_module._run(recipe, CellWork(cell, {"evaluate": "y"}, ("evaluate",)), "evaluate", None)
    assert ledger.read(recipe.output, cell.id, "evaluate") is not None
    assert not saved.parent.exists()
