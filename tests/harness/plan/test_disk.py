"""Covers `disk` and `fit`: against the bytes of a finished study, and by hand for the paper's largest model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.data.prepare import prepare
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.plan import disk as module
from harness.plan.cost import plan_cells
from harness.plan.disk import GIGA, Disk, disk, free, shortage
from harness.plan.fit import check_fit
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.run import run_cell

LARGER = ("models.vit_b8.width=256", "models.vit_b8.depth=4", "models.vit_b8.heads=4")
RECIPE = Path(__file__).parents[3] / "recipes" / "scaling.yaml"


def recipe(*words: str) -> Recipe:
    return load(RECIPE, "slurm", ["grid.datasets=[rpi_93m]", *words])


def test_a_vit_l8_in_training_by_hand() -> None:
    """329 M parameters in float32: 1.32 GB; with Lion's one moment 2.63 GB a state, of which there are three."""
    study = recipe("grid.models=[vit_l8_plus]", "grid.untrained=false", "embed=null", "evaluate=null")
    plans = [plan for plan in plan_cells(study, cells(study)) if plan.cell.training is not None][:1]
    needed = disk(study, plans)
    parameters = plans[0].parameters
    assert parameters == pytest.approx(329e6, rel=0.01)
    assert needed == Disk(4.0 * parameters, 3 * 2 * 4.0 * parameters)
    adamw = study.model_copy(update={"launch": study.launch.model_copy(update={"checkpoint_best": True})})
    assert disk(adamw, plans).passing == 4 * 2 * 4.0 * parameters


def test_only_cells_that_run_at_a_time_have_checkpoints() -> None:
    study = recipe("embed=null", "evaluate=null", "launch.parallel=2")
    plans = plan_cells(study, cells(study))
    trained = sorted((plan.parameters for plan in plans if plan.cell.training is not None), reverse=True)
    assert disk(study, plans).passing == sum(3 * 2 * 4.0 * count for count in trained[:2])
    assert disk(study, plans).kept == sum(4.0 * plan.parameters for plan in plans)


@pytest.mark.slow
def test_what_a_finished_cell_left_is_what_was_predicted(tiny_recipe_file: Path) -> None:
    """Weights, embeddings and the final state of a real run; headers and columns of metadata are small beside them."""
    study = load(
        tiny_recipe_file, "laptop", ["launch.keep_states=true", "grid.models=[vit_b8]", "evaluate=null", *LARGER]
    )
    prepare(study)
    cell = next(cell for cell in cells(study) if cell.kind == "trained")
    run_cell(study.model_dump_json(), cell.id)
    plans = plan_cells(study, [cell])
    files = cell_folder(study, cell).rglob("*")
    left = [path for path in files if path.suffix in (".safetensors", ".parquet", ".distcp")]
    assert len(left) == 3
    assert sum(path.stat().st_size for path in left) == pytest.approx(disk(study, plans).kept, rel=0.1)


def test_a_study_larger_than_its_disk_is_refused_in_one_line_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = recipe(f"output={tmp_path}/not/there/yet")
    missing = cells(study)
    plans = plan_cells(study, missing)
    assert free(study.output) > 0
    monkeypatch.setattr(module, "free", lambda output: int(disk(study, plans).total) + 1)
    assert shortage(study, plans) == []
    lacking = [(cell, ("train", "embed", "evaluate")) for cell in missing]
    check_fit(study, lacking, force=False)
    monkeypatch.setattr(module, "free", lambda output: 10 * int(GIGA))
    (line,) = shortage(study, plans)
    assert line.startswith(f"the study needs {disk(study, plans).in_words}; 10 GB are free in {study.output}: ")
    with pytest.raises(RecipeError, match="nothing was started: this would not fit"):
        check_fit(study, lacking, force=False)
    check_fit(study, lacking, force=True)


def test_what_is_done_or_written_already_needs_no_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that its own study has filled, the rest of it may still run."""
    study = recipe(f"output={tmp_path}")
    grid = cells(study)
    plans = plan_cells(study, grid)
    assert disk(study, plans, {cell.id: ("evaluate",) for cell in grid}) == Disk(0.0, 0.0)
    embedding = disk(study, plans, {cell.id: ("embed", "evaluate") for cell in grid})
    assert embedding.kept == disk(study, plans).kept - sum(4.0 * plan.parameters for plan in plans)
    trained = next(plan for plan in plans if plan.cell.training is not None)
    lacks = {trained.cell.id: ("train",)}
    needed = disk(study, [trained], lacks)
    monkeypatch.setattr(module, "free", lambda output: int(needed.total) - 1000)
    assert shortage(study, [trained], lacks) != []
    written = tmp_path / "cells" / trained.cell.id / "checkpoints" / "step-1" / "weights"
    written.parent.mkdir(parents=True)
    written.write_bytes(bytes(2000))
    assert shortage(study, [trained], lacks) == []


def test_a_disk_that_does_not_say_what_is_free_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    study = recipe()

    def fail(output: Path) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "free", fail)
    assert shortage(study, plan_cells(study, cells(study))) == []


def test_words_name_both_parts() -> None:
    found = replace(Disk(0.0, 0.0), kept=315e9, passing=144e9)
    assert found.in_words.startswith("459 GB: 315 for weights and embeddings, and up to 144 for checkpoints")
