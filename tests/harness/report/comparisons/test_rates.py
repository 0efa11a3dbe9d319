"""Covers `rates`: every sweep of the learning rate in a grid is read, however the grid varies the rate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from finished_cells import finished

from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.comparisons.rates import diverged, figure, lines, rate_sweeps
from harness.storage import ledger
from harness.storage.ledger import LedgerRow
from harness.sweep import main

RECIPE = Path(__file__).parents[4] / "recipes" / "scaling.yaml"
GRID = ["grid.models=[vit_s16, vit_b16]", "grid.datasets=[rxrx3]", "grid.untrained=false",
        "grid.pixel_statistics=false"]  # fmt: skip
BEST = {"vit_s16": 2.5e-4, "vit_b16": 1e-5}


def study(folder: Path, *overrides: str) -> Recipe:
    return load(RECIPE, "slurm", [f"output={folder}", *GRID, *overrides])


def finish(recipe: Recipe, cell: Cell) -> None:
    assert cell.training is not None
    loss = 0.5 * np.exp(0.02 * np.log(cell.training.learning_rate / BEST[cell.model]) ** 2)
    finished(recipe, cell, 1 - float(loss), annealed=True)


AXES = {
    "axis": "grid.axes={train.learning_rate: [1e-4, 2e-4, 4e-4]}",
    "by-model": "grid.axes={train.learning_rate: [{vit_s16: 1e-4, vit_b16: 1e-4}, {vit_s16: 2e-4, vit_b16: 2e-4},"
    " {vit_s16: 4e-4, vit_b16: 4e-4}]}",
    "variants": "grid.variants={a: {train.learning_rate: 1e-4}, b: {train.learning_rate: 2e-4},"
    " c: {train.learning_rate: 4e-4}}",
}


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_each_size_has_its_optimum_however_the_rate_varies(tmp_path: Path, axis: str) -> None:
    recipe = study(tmp_path, axis)
    for cell in cells(recipe):
        finish(recipe, cell)
    small, large = rate_sweeps(recipe, cells(recipe))
    assert (small.size, large.size) == ("vit_s16", "vit_b16")
    assert small.reading is not None
    assert small.reading.rate == pytest.approx(2.5e-4, rel=1e-6)
    assert large.reading is not None
    assert (large.reading.rate, large.reading.edge) == (None, "lowest")
    assert figure([small, large]) is not None
    assert "lowest of the sweep" in lines([small, large])[2]


def test_sweeps_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    overrides = ["grid.datasets=[rxrx3, rpi_52m]", "grid.axes={mae.mask_ratio: [0.5, 0.75], "
                 "train.learning_rate: [1e-4, 2e-4, 4e-4]}"]  # fmt: skip
    recipe = study(tmp_path, "grid.models=[vit_s16]", *overrides)
    sweeps = rate_sweeps(recipe, cells(recipe))
    assert [sweep.size for sweep in sweeps] == [
        f"vit_s16 on {dataset}, mask_ratio={ratio}" for ratio in (0.5, 0.75) for dataset in ("rxrx3", "rpi_52m")
    ]
    assert sweeps[0].text.startswith("vit_s16 on rxrx3, mask_ratio=0.5: none of its 3 cells is trained")
    assert figure(sweeps) is None


def test_two_rates_are_no_sweep(tmp_path: Path) -> None:
    recipe = study(tmp_path, "grid.axes={train.learning_rate: [1e-4, 2e-4]}")
    assert rate_sweeps(recipe, cells(recipe)) == []
    assert lines([]) == []


def log(recipe: Recipe, cell: Cell, *rows: dict[str, object]) -> None:
    path = cell_folder(recipe, cell) / "train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_run_that_ended_at_a_bad_step_diverged_and_bounds_the_optimum(tmp_path: Path) -> None:
    recipe = study(tmp_path, "grid.models=[vit_s16]", "grid.axes={train.learning_rate: [1e-4, 2e-4, 4e-4, 8e-4]}")
    grid = cells(recipe)
    for cell in grid[:3]:
        finish(recipe, cell)
    log(recipe, grid[3], {"kind": "train", "step": 1}, {"kind": "bad_step", "step": 2, "action": "stop"})
    assert diverged(recipe, grid[3])
    (sweep,) = rate_sweeps(recipe, grid)
    assert len(sweep.rate) == 4
    assert sweep.reading is not None
    assert sweep.reading.rate == pytest.approx(2.5e-4, rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "ended"),
    [
        ([], False),
        ([{"kind": "bad_step", "step": 2, "action": "report"}], False),
        ([{"kind": "bad_step", "step": 2, "action": "stop"}, {"kind": "resume", "step": 1}], False),
        ([{"kind": "bad_step", "step": n, "action": "skip"} for n in range(11)], True),
        ([{"kind": "bad_step", "step": n, "action": "skip"} for n in range(10)], False),
    ],
    ids=["nothing", "reported", "resumed", "eleven-skipped", "ten-skipped"],
)
def test_what_counts_as_diverged(tmp_path: Path, rows: list[dict[str, object]], ended: bool) -> None:
    recipe = study(tmp_path)
    log(recipe, cells(recipe)[0], *rows)
    assert diverged(recipe, cells(recipe)[0]) is ended


@pytest.mark.slow
def test_report_prints_the_readings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [f"output={tmp_path}", *GRID, "grid.models=[vit_s16]", AXES["axis"]]
    recipe = load(RECIPE, "slurm", overrides)
    for cell in cells(recipe):
        finish(recipe, cell)
    assert main(["report", str(RECIPE), "--profile", "slurm", *overrides]) == 0
    assert "vit_s16: best rate 0.00025" in capsys.readouterr().out
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<li>vit_s16: best rate 0.00025" in page
    assert (tmp_path / "report" / "best_rates.png").exists()


def test_a_continued_run_is_of_one_sweep_with_those_of_other_rates_and_seeds(tmp_path: Path) -> None:
    """What it continues has another rate and seed, too."""
    both = ["grid.models=[vit_s16]", "grid.datasets=[rxrx3, rxrx1]", "grid.seeds=[0, 1]", AXES["axis"]]
    recipe = study(tmp_path, *both, "train.start_from={rxrx1: rxrx3}")
    for cell in cells(recipe):
        finish(recipe, cell)
    sweeps = rate_sweeps(recipe, cells(recipe))
    assert [(sweep.size, len(sweep.rate)) for sweep in sweeps] == [("vit_s16 on rxrx3", 6), ("vit_s16 on rxrx1", 6)]


def test_a_branch_whose_trunk_diverged_has_diverged(tmp_path: Path) -> None:
    stable = "train.schedule={name: warmup_stable_decay, ends: [0.5, 1.0]}"
    recipe = study(tmp_path, "grid.models=[vit_s16]", stable, "train.early_stopping=null")
    trunk, half, full = cells(recipe)
    assert not diverged(recipe, full)
    log(recipe, trunk, {"kind": "train", "step": 10}, {"kind": "bad_step", "step": 11, "action": "stop"})
    assert [diverged(recipe, cell) for cell in (trunk, half, full)] == [True, True, True]
    ledger.record(recipe.output, LedgerRow(trunk.id, "train", "x", {"crops": 1, "steps": 1}))
    assert not diverged(recipe, half)
