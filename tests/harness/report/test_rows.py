"""Covers `rows` and `left_out`: a file that cannot be used is named, with the reason, and the others are drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_cells import finished

from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.left_out import left_out
from harness.report.points import curves, points
from harness.report.rows import TrainValues, annealed
from harness.report.write import report
from harness.storage import ledger
from harness.sweep import main

RECIPE = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
GRID = ["grid.models=[vit_s16, vit_b16, vit_l16]", "grid.datasets=[rxrx3, rpi_52m]", "grid.untrained=false"]
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def study(tmp_path: Path) -> tuple[Recipe, list[Cell]]:
    """Six trained cells and pixel statistics, all evaluated."""
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *GRID])
    grid = cells(recipe)
    for number, cell in enumerate(grid):
        finished(recipe, cell, 0.2 + 0.03 * number)
    return recipe, grid


def edit(recipe: Recipe, cell: Cell, stage: str, change: Edit) -> None:
    """Change a row's JSON; `change` works in place, or returns other JSON, or text."""
    path = ledger.row_path(recipe.output, cell.id, stage)
    value = json.loads(path.read_text())
    changed = change(value)
    path.write_text(changed if isinstance(changed, str) else json.dumps(value if changed is None else changed))


def put(*keys: str, value: object) -> Edit:
    """An edit that sets `values.KEYS` of a row."""

    def change(row: dict[str, Any]) -> None:
        place = row["values"]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def drop(*keys: str) -> Edit:
    def change(row: dict[str, Any]) -> None:
        place = row
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


CORUM = ("recall", "CORUM")
BAD_ROWS = [
    ("evaluate", lambda row: "", "not a ledger row"),
    ("evaluate", lambda row: "\0" * 64, "not a ledger row"),
    ("evaluate", lambda row: json.dumps(row)[:100], "not a ledger row"),
    ("evaluate", lambda row: "[" * 100_000, "not a ledger row"),
    ("evaluate", lambda row: [row], "a row is a JSON object, this is list"),
    ("evaluate", lambda row: "null", "a row is a JSON object, this is NoneType"),
    ("evaluate", lambda row: "3", "a row is a JSON object, this is int"),
    ("evaluate", lambda row: {}, "cell is missing"),
    ("evaluate", drop("values"), "values is missing"),
    ("evaluate", lambda row: row | {"values": {}}, "values.genes: field required (and 1 more)"),
    ("evaluate", lambda row: row | {"values": []}, "values should be dict, this is list"),
    ("evaluate", lambda row: row | {"cell": 3}, "cell should be str, this is int"),
    ("evaluate", lambda row: row | {"cell": "another"}, "the row of another stage: evaluate of another"),
    ("evaluate", lambda row: row | {"stage": "train"}, "the row of another stage: train of"),
    ("evaluate", lambda row: row | {"version": 9}, "unknown field version: written by another version"),
    ("evaluate", lambda row: json.dumps(row)[:-1] + ', "values": {}}', "a key is given twice"),
    ("evaluate", put("protocol", value="relationship_recall/4/current/2"), "was written by another version"),
    ("evaluate", put("protocol", value="relationship_recall/2/current/3"), "was written by another version"),
    ("evaluate", put("protocol", value="relationship_recall/" + "9" * 5000), "was written by another version"),
    ("evaluate", put("protocol", value="replicate_consistency/1"), "was written by another version"),
    ("evaluate", put("genes", value="50"), "values.genes: input should be a valid integer"),
    ("evaluate", put("genes", value=True), "values.genes: input should be a valid integer"),
    ("evaluate", put("recall", value={}), "values.recall: dictionary should have at least 1 item"),
    ("evaluate", put("recall", value=0.5), "values.recall is not a mapping"),
    ("evaluate", put("recall", "a\ud800", value=None), "values.recall"),
    ("evaluate", put(*CORUM, value=0.5), "values.recall.CORUM has no number called recall"),
    ("evaluate", put(*CORUM, "recall", value="0.5"), "values.recall.CORUM has no number called recall"),
    ("evaluate", put(*CORUM, "recall", value=None), "values.recall.CORUM has no number called recall"),
    ("evaluate", put(*CORUM, "recall", value=math.nan), "NaN is not a finite number"),
    ("evaluate", put(*CORUM, "recall_low", value=-math.inf), "-Infinity is not a finite number"),
    ("evaluate", lambda row: json.dumps(row).replace("0.1,", "1e999,"), "1e999 is not a finite number"),
    ("evaluate", put(*CORUM, "recall", value=10**400), "values.recall.CORUM.recall: input should be a valid number"),
    ("evaluate", put(*CORUM, "recall", value=1.5), "values.recall.CORUM.recall: input should be less than or equal"),
    ("evaluate", put(*CORUM, "pairs", value=-1), "values.recall.CORUM.pairs: input should be greater than or equal"),
    ("evaluate", drop("values", *CORUM, "chance"), "values.recall.CORUM.chance: field required"),
    ("train", lambda row: row | {"values": {}}, "values.crops: field required"),
    ("train", put("crops", value=0), "values.crops: a trained cell has seen none"),
    ("train", put("crops", value=10**30), "values.crops: input should be less than or equal"),
    ("train", put("validation_loss", value="low"), "values.validation_loss is low, not a number"),
    ("train", lambda row: row | {"values": row["values"] | {"steps": 9, "planned_steps": 8}}, "9 of 8 planned"),
    ("train", put("annealed", value="yes"), "values.annealed: input should be a valid boolean"),
    ("train", put("stage_seconds", value=-1.0), "values.stage_seconds: input should be greater than or equal"),
]


@pytest.mark.parametrize(("stage", "change", "reason"), BAD_ROWS, ids=[reason for _, _, reason in BAD_ROWS])
def test_a_row_that_cannot_be_used_is_named_and_the_others_are_drawn(
    study: tuple[Recipe, list[Cell]], stage: str, change: Edit, reason: str
) -> None:
    recipe, grid = study
    bad = grid[3]
    edit(recipe, bad, stage, change)
    first, *others = left_out(recipe, grid)
    assert first.path == Path("ledger") / bad.id / f"{stage}.json"
    assert reason in first.reason
    assert first.is_fault
    # without its training, an evaluation has no compute
    assert [file.path.name for file in others] == (["evaluate.json"] if stage == "train" else [])
    assert set(points(recipe, grid, "touvron")["cell"]) == {cell.id for cell in grid} - {bad.id}


def test_a_row_of_another_cell_under_this_name_is_left_out(study: tuple[Recipe, list[Cell]]) -> None:
    recipe, grid = study
    one, other = (ledger.row_path(recipe.output, cell.id, "evaluate") for cell in grid[2:4])
    one.write_bytes(other.read_bytes())
    (file,) = left_out(recipe, grid)
    assert str(file) == f"ledger/{grid[2].id}/evaluate.json: the row of another stage: evaluate of {grid[3].id}"


def test_an_evaluation_without_training_has_no_compute_and_is_left_out(study: tuple[Recipe, list[Cell]]) -> None:
    recipe, grid = study
    ledger.row_path(recipe.output, grid[3].id, "train").unlink()
    (file,) = left_out(recipe, grid)
    assert "no usable row of training" in file.reason


def test_cells_outside_the_grid_are_named_but_are_no_fault(study: tuple[Recipe, list[Cell]]) -> None:
    recipe, grid = study
    (recipe.output / "ledger" / "another").mkdir()
    (recipe.output / "ledger" / "another" / "train.json").write_text("{")
    (file,) = left_out(recipe, grid)
    assert (str(file), file.is_fault) == ("ledger/another: no cell of this recipe's grid has this id", False)


def test_damage_to_a_log_is_named_and_the_rest_of_it_is_drawn(study: tuple[Recipe, list[Cell]]) -> None:
    recipe, grid = study
    log = cell_folder(recipe, grid[3]) / "train.jsonl"
    good = log.read_text()
    entry = {"kind": "validation", "step": 5, "crops": 5}
    lines = [json.dumps(entry | {"validation_loss": loss}) for loss in (math.nan, math.inf, "0.5", None)]
    lines += [json.dumps(entry), '{"kind": "validation", "step": 1e999}', "[]", '{"step": 3}']
    log.write_bytes(good.encode() + "".join(f"{line}\n" for line in lines).encode() + b"\xff\xfe\n" + b'{"kind": "tr')
    (file,) = left_out(recipe, grid)
    assert file.path == log.relative_to(recipe.output)
    assert file.reason == "7 damaged lines, 1 validations without a finite loss and a number of crops"
    drawn = curves(recipe, grid, "touvron")
    assert len(drawn[drawn["cell"] == grid[3].id]) == 2
    log.unlink()
    log.mkdir()
    (file,) = left_out(recipe, grid)
    assert "cannot be read" in file.reason


@pytest.mark.parametrize("damage", ["torn", "text", "keys", "shapes", "empty", "nan", "objects"])
def test_crops_that_cannot_be_drawn_are_named(study: tuple[Recipe, list[Cell]], damage: str) -> None:
    recipe, grid = study
    path = cell_folder(recipe, grid[3]) / "reconstructions.npz"
    arrays = dict(np.load(path))
    match damage:
        case "torn":
            path.write_bytes(path.read_bytes()[:-200])
        case "text":
            path.write_text("no archive")
        case "keys":
            np.savez(path, **{name: array for name, array in arrays.items() if name != "mask"})
        case "shapes":
            np.savez(path, **arrays | {"channels": np.array(["a"])})
        case "empty":
            np.savez(
                path, **arrays | {name: arrays[name][:0] for name in ("wells", "original", "mask", "reconstruction")}
            )
        case "nan":
            np.savez(path, **arrays | {"original": np.full_like(arrays["original"], np.nan)})
        case "objects":
            np.savez(path, **arrays | {"original": np.array([{}], dtype=object)})
    (file,) = left_out(recipe, grid)
    assert file.path == path.relative_to(recipe.output)
    assert "not crops that can be drawn" in file.reason


def test_an_old_row_says_whether_its_run_was_annealed_as_far_as_it_has_what_is_needed(tmp_path: Path) -> None:
    grid = cells(load(RECIPE, "slurm", [f"output={tmp_path}", *GRID]))
    cell = next(cell for cell in grid if cell.dataset == "rpi_52m")
    assert annealed(cell, TrainValues(crops=1)) is None
    assert annealed(cell, TrainValues(crops=1, steps=9)) is None
    assert annealed(cell, TrainValues(crops=1, steps=9, planned_steps=10)) is False
    assert annealed(cell, TrainValues(crops=1, steps=10, planned_steps=10)) is True
    assert annealed(cell, TrainValues(crops=1, steps=9, planned_steps=10, annealed=True)) is True
    constant = cells(load(RECIPE, "slurm", [f"output={tmp_path}", *GRID, "train.schedule.final_factor=1"]))
    cell = next(cell for cell in constant if cell.dataset == "rpi_52m")
    assert annealed(cell, TrainValues(crops=1, steps=9, planned_steps=10)) is True


@pytest.mark.slow
def test_the_report_names_what_it_leaves_out_on_stderr_on_the_page_and_by_its_exit_status(
    study: tuple[Recipe, list[Cell]], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, grid = study
    words = ["report", str(RECIPE), "--profile", "slurm", f"output={recipe.output}", *GRID]
    assert main(words) == 0
    edit(recipe, grid[3], "evaluate", lambda row: row | {"values": {}})
    edit(recipe, grid[4], "train", lambda row: "{")
    for _ in range(2):  # drawn, then up to date
        assert main(words) == 1
        said = capsys.readouterr().err
        assert f"left out of the report: ledger/{grid[3].id}/evaluate.json: values.genes: field required" in said
        assert f"left out of the report: ledger/{grid[4].id}/train.json: not a ledger row" in said
    assert report(recipe) == []
    page = (recipe.output / "report" / "report.html").read_text()
    assert f"<li>ledger/{grid[3].id}/evaluate.json: values.genes: field required" in page
    assert main(["plan", *words[1:], "--next", "1"]) == 0
    assert f"left out of the proposal: ledger/{grid[3].id}/evaluate.json" in capsys.readouterr().err
