"""Predictions of cells that are not done, sealed and scored: `predict`, `score`, `command` and the report."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_cells import SOURCES, finished

from analysis.fitting.estimate import Points
from analysis.fitting.fit_curve import fit_points
from analysis.laws.metric import Metric
from harness import sweep
from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.plan.cost import plan_cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.forecasts.command import as_json, seal_forecast, text
from harness.report.forecasts.predict import LOSS, MEAN, open_cells
from harness.report.forecasts.score import lines, scores
from harness.report.forecasts.seal import CellForecast, Predicted, read_all
from harness.report.left_out import left_out
from harness.storage import ledger

RECIPE = Path(__file__).parents[4] / "recipes" / "scaling.yaml"
GRID = ["grid.models=[vit_s16, vit_b16, vit_l16]", "grid.datasets=[rxrx1, rxrx3, rpi_52m]",
        "grid.pixel_statistics=true", "train.early_stopping=null",
        "evaluate.relationships={CORUM: CORUM.csv, StringDB: StringDB.csv}"]  # fmt: skip
NOISE = (0.004, -0.006, 0.002, 0.005, -0.003, -0.004, 0.003)


def flops(recipe: Recipe, cell: Cell) -> float:
    return plan_cells(recipe, [cell])[0].flops["touvron"]


def recall_at(compute: float) -> float:
    """The law of the study: three points of recall a decade."""
    return 0.2 + 0.03 * math.log10(compute / 1e16)


def finish(recipe: Recipe, cell: Cell, noise: float = 0.0, **training: object) -> None:
    plan = plan_cells(recipe, [cell])[0]
    ended = {"steps": plan.steps, "planned_steps": plan.steps, "annealed": True} | training
    finished(recipe, cell, recall_at(plan.flops["touvron"]) + noise, plan.crops, **ended)


@pytest.fixture
def study(tmp_path: Path) -> tuple[Recipe, list[Cell]]:
    """The seven cheapest of nine trained cells are done; the cells, by cost."""
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *GRID])
    trained = sorted((c for c in cells(recipe) if c.kind == "trained"), key=lambda c: flops(recipe, c))
    for cell, noise in zip(trained[:7], NOISE, strict=True):
        finish(recipe, cell, noise)
    return recipe, trained


def of(forecast: CellForecast, metric: str) -> Predicted:
    return next(one for one in forecast.predicted if one.metric == metric)


def test_without_names_all_open_cells_are_forecast_with_every_metric_of_the_report(
    study: tuple[Recipe, list[Cell]],
) -> None:
    recipe, trained = study
    made = seal_forecast(recipe, []).forecast
    assert {cell.cell for cell in made.cells} == {cell.id for cell in trained[7:]}
    assert made.rows == 14  # of training and evaluation of seven cells
    for cell in made.cells:
        assert [one.metric for one in cell.predicted] == [LOSS, *SOURCES, MEAN]
        assert (cell.steps_seen, cell.is_trained) == (0, False)
    assert made.recipe == json.loads(json.dumps(recipe.model_dump(mode="json")))


def test_recall_is_predicted_by_the_report_s_law_and_intervals(study: tuple[Recipe, list[Cell]]) -> None:
    recipe, trained = study
    target = trained[-1]
    (made,) = seal_forecast(recipe, [target]).forecast.cells
    x = np.array([[flops(recipe, cell)] for cell in trained[:7]])
    y = np.array([recall_at(compute) for compute in x[:, 0]]) + NOISE
    place = np.array([[flops(recipe, target)]])
    direct = fit_points(Points(x, y), Metric("share"), "log_linear", targets=place).predictions[0]
    found = of(made, "CORUM")
    assert (found.value, found.low, found.high) == pytest.approx((direct.y, direct.low, direct.high))
    assert found.points == 7
    assert found.low is not None
    assert found.high is not None
    assert found.low < recall_at(flops(recipe, target)) < found.high
    assert made.compute == pytest.approx(flops(recipe, target))


def test_what_is_done_unknown_or_stopped_is_refused_and_nothing_is_sealed(study: tuple[Recipe, list[Cell]]) -> None:
    recipe, trained = study
    with pytest.raises(ValueError, match=f"nothing was sealed: {trained[0].id} is done"):
        seal_forecast(recipe, [trained[8], trained[0]])
    row = {"probability": 0.995, "share": 0.25, "evidence": "x"}
    finish(recipe, trained[7], stopped=row, annealed=False)
    ledger.row_path(recipe.output, trained[7].id, "evaluate").unlink()
    with pytest.raises(ValueError, match=rf"{trained[7].id} was stopped by launch.stop_when"):
        seal_forecast(recipe, [trained[7]])
    assert open_cells(recipe) == [trained[8]]
    finish(recipe, trained[8])
    with pytest.raises(ValueError, match="every trained cell is done"):
        seal_forecast(recipe, [])
    assert read_all(recipe) == []


def test_a_cell_that_has_begun_says_how_many_steps_were_seen(study: tuple[Recipe, list[Cell]]) -> None:
    recipe, trained = study
    log = cell_folder(recipe, trained[8]) / "train.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"kind": "train", "step": 300, "progress": 0.25, "loss": 0.9}) + "\n")
    sealed = seal_forecast(recipe, [trained[8]])
    (made,) = sealed.forecast.cells
    assert (made.steps_seen, made.steps) == (300, 1200)
    assert "300 steps seen" in text(sealed)
    finish_trained = {"crops": 10**7, "steps": 1200, "planned_steps": 1200, "annealed": True, "validation_loss": 0.5}
    ledger.record(recipe.output, ledger.LedgerRow(trained[8].id, "train", "x", finish_trained))
    (after,) = seal_forecast(recipe, [trained[8]]).forecast.cells
    assert after.is_trained
    assert LOSS not in [one.metric for one in after.predicted]  # it is measured already


def test_what_no_law_can_tell_is_written_as_such(tmp_path: Path) -> None:
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *GRID])
    trained = [cell for cell in cells(recipe) if cell.kind == "trained"]
    baseline = next(cell for cell in cells(recipe) if cell.kind == "pixel_statistics")
    for cell in trained[:2]:
        finish(recipe, cell)
    sealed = seal_forecast(recipe, [trained[5], baseline])
    for cell in sealed.forecast.cells:
        for one in cell.predicted:
            assert one.value is None
            assert one.cannot_tell is not None
            assert one.cannot_tell.startswith("not enough to tell") or "not enough to tell" in one.cannot_tell
    assert "this needs at least 3" in text(sealed)
    assert "only trained cells are" in text(sealed)
    assert scores(recipe, cells(recipe), [sealed])[0].error is None


def test_forecasts_are_scored_once_their_cells_are_done(study: tuple[Recipe, list[Cell]]) -> None:
    recipe, trained = study
    sealed = seal_forecast(recipe, trained[7:])
    grid = cells(recipe)
    assert all(one.error is None for one in scores(recipe, grid, [sealed]))
    finish(recipe, trained[7], 0.2)  # far outside
    finish(recipe, trained[8])
    found = {(one.prediction.cell, one.prediction.metric): one for one in scores(recipe, grid, read_all(recipe))}
    outside, inside = (found[cell.id, "CORUM"] for cell in trained[7:])
    predicted = of(sealed.forecast.cells[0], "CORUM").value
    assert predicted is not None
    assert outside.error == pytest.approx(recall_at(flops(recipe, trained[7])) + 0.2 - predicted)
    assert (outside.is_inside, inside.is_inside) == (False, True)
    assert inside.coverage == 0.5
    assert f"the last {sealed.seal}" in lines(recipe, grid)[0]
    assert any("CORUM: 1 of 2 inside their 90% interval" in line for line in lines(recipe, grid))


def test_a_run_that_did_not_end_its_schedule_is_not_scored(study: tuple[Recipe, list[Cell]]) -> None:
    recipe, trained = study
    sealed = seal_forecast(recipe, trained[7:])
    finish(recipe, trained[7], annealed=False)
    finish(recipe, trained[8], stopped={"probability": 0.99, "share": 0.3, "evidence": "x"}, annealed=False)
    found = scores(recipe, cells(recipe), [sealed])
    assert all(one.error is None for one in found)
    assert {one.prediction.note for one in found} == {
        "not scored: training stopped before the learning rate had decayed",
        "not scored: stopped by launch.stop_when",
    }


def test_an_altered_forecast_is_left_out_of_the_report_as_a_fault(study: tuple[Recipe, list[Cell]]) -> None:
    recipe, trained = study
    sealed = seal_forecast(recipe, trained[7:])
    assert [file for file in left_out(recipe, cells(recipe)) if "forecasts" in str(file)] == []
    sealed.path.write_text(sealed.path.read_text().replace('"value": 0.3', '"value": 0.4', 1))
    (fault,) = [file for file in left_out(recipe, cells(recipe)) if "forecasts" in str(file)]
    assert fault.is_fault
    assert str(fault.path) == f"forecasts/{sealed.path.name}"
    assert "altered after it was sealed" in fault.reason
    assert "forecasts are not scored" in lines(recipe, cells(recipe))[0]


def test_the_verb_takes_beginnings_of_ids_and_prints_the_file_as_json(
    study: tuple[Recipe, list[Cell]], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, trained = study
    arguments = [str(RECIPE), f"output={recipe.output}", *GRID, "--profile", "slurm"]
    assert sweep.main(["forecast", *arguments, trained[8].id[:-4], "--json"]) == 0
    printed = capsys.readouterr().out
    (sealed,) = read_all(recipe)
    assert json.loads(printed)["sha256"] == sealed.seal
    assert printed.rstrip("\n") == as_json(sealed)
    assert sweep.main(["forecast", *arguments, "vit_x"]) == 2
    assert "'vit_x' names no cells" in capsys.readouterr().err
    assert sweep.main(["plan", *arguments, trained[8].id]) == 2
    assert "only logs, cancel, forecast take cells" in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_has_the_scores_on_its_page_and_as_a_table(
    study: tuple[Recipe, list[Cell]], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, trained = study
    sealed = seal_forecast(recipe, trained[7:])
    finish(recipe, trained[8])
    arguments = ["report", str(RECIPE), f"output={recipe.output}", *GRID, "--profile", "slurm"]
    assert sweep.main(arguments) == 0
    assert "validation loss: 1 of 1 inside" in capsys.readouterr().out
    table = pd.read_csv(recipe.output / "report" / "forecasts.csv")
    assert len(table) == 2 * (2 + len(SOURCES))
    assert table["inside"].notna().sum() == 2 + len(SOURCES)
    page = (recipe.output / "report" / "report.html").read_text()
    assert f"the seal of the last is {sealed.seal}" in page
    sealed.path.write_text("{}")
    assert sweep.main(arguments) == 1
    assert f"forecasts/{sealed.path.name}: file: has other bytes than it was written with" in capsys.readouterr().err
    shutil.rmtree(recipe.output / "forecasts")


def test_each_point_of_the_axes_has_a_law_of_its_own(tmp_path: Path) -> None:
    axis = "grid.axes={mae.mask_ratio: [0.5, 0.75]}"
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *GRID, axis])
    trained = [cell for cell in cells(recipe) if cell.kind == "trained"]
    for ratio, extra in ((0.5, 0.0), (0.75, 0.1)):
        here = [cell for cell in trained if cell.labels()["mae.mask_ratio"] == ratio]
        for cell, noise in zip(sorted(here, key=lambda c: flops(recipe, c))[:7], NOISE, strict=False):
            finish(recipe, cell, noise + extra)
    made = seal_forecast(recipe, []).forecast.cells
    found = {cell.cell: of(cell, "CORUM").value for cell in made}
    ratios = {cell.id: cell.labels()["mae.mask_ratio"] for cell in trained}
    compute = {cell.id: flops(recipe, cell) for cell in trained}
    for name, value in found.items():
        extra = 0.1 if ratios[name] == 0.75 else 0.0
        assert value == pytest.approx(recall_at(compute[name]) + extra, abs=0.02)
