"""Runs that `launch.stop_when` ended: counted on the page and in the checklist, and part of no law: `stopped`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_cells import finished

from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.comparisons.rates import rate_sweeps
from harness.report.left_out import left_out
from harness.report.next_runs import propose
from harness.report.page.data import study
from harness.report.points import points, trained_runs
from harness.report.stopped import STOPPED, censored
from harness.storage import ledger
from harness.storage.ledger import LedgerError, LedgerRow

RECIPE = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
GRID = ["grid.models=[vit_s16, vit_b16, vit_l16, vit_s8, vit_b8, vit_l8]", "grid.datasets=[rxrx3]",
        "grid.untrained=false", "grid.pixel_statistics=false", "fit.include_unannealed=true"]  # fmt: skip
STOP = {"probability": 0.995, "share": 0.25, "evidence": "above the frontier", "frontier": {"loss": 0.5}}


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Recipe, str]:
    """Five cells are done; the sixth was stopped, with a loss that would bend any law."""
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *GRID])
    *done, last = cells(recipe)
    for number, cell in enumerate(done):
        finished(recipe, cell, 0.2 + 0.03 * number + 0.002 * (number % 2), annealed=True, steps=100, planned_steps=100)
    values = {"crops": 1000, "steps": 25, "planned_steps": 100, "annealed": False, "validation_loss": 9.0}
    values |= {"stopped": STOP}
    ledger.record(recipe.output, LedgerRow(last.id, "train", "x", values))
    return recipe, last.id


def test_no_table_for_laws_has_a_stopped_run_even_where_unannealed_ones_are_kept(stopped: tuple[Recipe, str]) -> None:
    recipe, name = stopped
    for table in (points(recipe, cells(recipe), "touvron"), trained_runs(recipe, cells(recipe), "touvron")):
        assert len(table) > 0
        assert name not in set(table["cell"])


def test_the_page_and_the_checklist_count_it(stopped: tuple[Recipe, str]) -> None:
    recipe, name = stopped
    shown = study(recipe)
    (row,) = [row for row in shown.cells if row.cell == name]
    assert row.state == STOPPED
    assert shown.unfinished == ""
    assert shown.stopped == f"{censored(1)}."
    assert censored(2).startswith("2 runs were stopped by launch.stop_when")
    for fits in shown.fits.values():
        assert all(any(censored(1) in check["detail"] for check in fit.checks) for fit in fits.values())


def test_it_is_not_proposed_again(stopped: tuple[Recipe, str]) -> None:
    recipe, name = stopped
    assert name not in [run.candidate.name for run in propose(recipe, count=5, budget=1e9).buy]
    assert left_out(recipe, cells(recipe)) == []


def test_a_sweep_of_rates_does_not_read_its_loss(tmp_path: Path) -> None:
    axis = "grid.axes={train.learning_rate: [1e-4, 2e-4, 4e-4]}"
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *GRID, "grid.models=[vit_s16]", axis])
    first, second, third = cells(recipe)
    for cell in (first, second):
        finished(recipe, cell, 0.3, annealed=True)
    finished(recipe, third, 0.1, annealed=False, stopped=STOP)
    assert sorted(rate_sweeps(recipe, cells(recipe))[0].rate) == [1e-4, 2e-4]


@pytest.mark.parametrize("value", [7, {}, {"probability": 1.5}, {"probability": "high"}], ids=json.dumps)
def test_a_row_whose_stop_is_not_readable_is_refused_by_name(tmp_path: Path, value: object) -> None:
    ledger.record(tmp_path, LedgerRow("a", "train", "x", {"crops": 1, "stopped": value}))
    with pytest.raises(LedgerError, match=r"values\.stopped has no probability between 0 and 1"):
        ledger.read(tmp_path, "a", "train")
