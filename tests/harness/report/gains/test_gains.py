"""Covers `gains` and `panels`: trained cells less their own initialisation, and what is said where it is not known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from finished_cells import finished

from analysis.recall.outcomes import PairOutcomes
from analysis.recall.pair_design import Indices
from harness.grid.cell import Cell
from harness.grid.cell_folder import PAIR_OUTCOMES, cell_folder
from harness.grid.cells import cells
from harness.models.architecture import build
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.gains.gains import Gains, gains, own_initialisation, sentence
from harness.report.points import points
from harness.report.write import report
from harness.storage import ledger
from harness.storage.ledger import LedgerRow
from harness.storage.pair_outcomes import write_outcomes

RECIPE = Path(__file__).parents[4] / "recipes" / "scaling.yaml"
GRID = ["grid.models=[vit_s16, vit_b16, vit_l16]", "grid.datasets=[rxrx3]", "grid.seeds=[0, 1]"]
COMPLEXES, SIZE = 20, 5  # 10 pairs each
GENES = tuple(f"g{number:03d}" for number in range(COMPLEXES * SIZE))
INITIAL = {"vit_s16": 40, "vit_b16": 44, "vit_l16": 48}  # pairs recalled before training, of 200
ADDED = {"vit_s16": 20, "vit_b16": 30, "vit_l16": 40}


def study(folder: Path, *overrides: str) -> Recipe:
    return load(RECIPE, "slurm", [f"output={folder}", *GRID, *overrides])


def pairs() -> tuple[Indices, Indices]:
    within = [np.stack(np.triu_indices(SIZE, 1)) + SIZE * number for number in range(COMPLEXES)]
    first, second = np.concatenate(within, axis=1).astype(np.int64)
    return first, second


def finish(recipe: Recipe, cell: Cell, crops: int = 10_000_000, *, annealed: bool = True) -> None:
    """Of every complex as many pairs are recalled; trained cells recall those of their initialisation and more."""
    first, second = pairs()
    count = INITIAL.get(cell.model, 20) + (ADDED[cell.model] if cell.kind == "trained" else 0)
    recalled = np.zeros(len(first))
    recalled[np.argsort(np.arange(len(first)) % 10, kind="stable")[:count]] = 1
    finished(recipe, cell, count / len(first), crops, sources=("CORUM",), annealed=annealed)
    outcomes = PairOutcomes("CORUM", GENES, first, second, recalled)
    write_outcomes(cell_folder(recipe, cell) / PAIR_OUTCOMES, [outcomes])


def found(recipe: Recipe) -> Gains:
    grid = cells(recipe)
    return gains(recipe, grid, points(recipe, grid, recipe.fit.convention))


def test_the_gain_is_that_over_the_same_networks_and_seeds_before_training(tmp_path: Path) -> None:
    recipe = study(tmp_path)
    for cell in cells(recipe):
        finish(recipe, cell)
    of_study = found(recipe)
    means = of_study.means.set_index("model")
    for model, added in ADDED.items():
        row = means.loc[model]
        assert row["gain"] == pytest.approx(added / 200)
        assert (row["initial"], row["recall"]) == pytest.approx((INITIAL[model] / 200, (INITIAL[model] + added) / 200))
        assert row["low"] < added / 200 < row["high"]
        assert row["seeds"] == 2
    assert of_study.missing == ()
    assert of_study.cells.groupby("trunk")["cell"].nunique().tolist() == [1] * 6  # one data set
    assert of_study.cells["recall"].tolist() == pytest.approx([added / 200 for added in ADDED.values() for _ in (0, 1)])


@pytest.mark.slow
def test_the_report_says_first_what_training_adds_with_its_files(tmp_path: Path) -> None:
    recipe = study(tmp_path)
    for cell in cells(recipe):
        finish(recipe, cell)
    report(recipe)
    folder = tmp_path / "report"
    table = pd.read_csv(folder / "gains.csv")
    assert table["gain"].tolist() == pytest.approx([0.1, 0.15, 0.2])
    assert (folder / "gain_versus_compute.png").stat().st_size > 10_000
    page = (folder / "report.html").read_text()
    assert page.index("What training adds") < page.index("What the runs say")
    assert "CORUM: training adds +0.200 (90% interval" in page
    assert "where the same networks recall 0.240 before training; vit_l16 on rxrx3" in page
    assert "Against compute the gain rises" in page


@pytest.mark.parametrize("annealed", [True, False], ids=["decayed", "stopped"])
def test_runs_that_stopped_at_other_crops_are_no_repeats(annealed: bool, tmp_path: Path) -> None:
    """Seeds whose rate decayed early, by early stopping, are; their point is at their mean."""
    recipe = study(tmp_path, "grid.models=[vit_s16]")
    for cell in cells(recipe):
        finish(recipe, cell, (10_000_000, 2_000_000)[cell.seed], annealed=annealed)
    means = found(recipe).means
    assert means["crops"].tolist() == ([6_000_000] if annealed else [10_000_000, 2_000_000])
    assert means["seeds"].tolist() == ([2] if annealed else [1, 1])
    assert means["compute"].is_monotonic_decreasing


@pytest.mark.slow
def test_a_row_of_gains_says_at_which_end_of_a_run_it_is(tmp_path: Path) -> None:
    annealed = RECIPE.with_name("scaling_annealed.yaml")
    recipe = load(annealed, "slurm", [f"output={tmp_path}", "grid.models=[vit_s16]", "grid.datasets=[rxrx3]"])
    for cell in cells(recipe):
        if cell.kind in ("trained", "untrained"):
            finish(recipe, cell)
    report(recipe)
    table = pd.read_csv(tmp_path / "report" / "gains.csv")
    assert table["end"].tolist() == [0.125, 0.25, 0.5, 1.0]
    assert table["pairs"].tolist() == [200] * 4


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    recipe = study(tmp_path)
    grid = cells(recipe)
    for cell in grid:
        if cell.kind == "trained":
            finish(recipe, cell)
    assert found(recipe).missing == ("6 recalls of trained cells: their own initialisation is not evaluated yet",)
    for cell in grid:
        if cell.kind == "untrained":
            finish(recipe, cell)
            (cell_folder(recipe, cell) / PAIR_OUTCOMES).unlink()
    (earlier,) = found(recipe).missing
    assert "evaluated by an earlier version" in earlier
    without = study(tmp_path, "grid.untrained=false")
    assert "grid.untrained: true adds it" in found(without).missing[0]
    assert found(without).means.empty


def test_maps_of_other_pairs_are_compared_on_those_that_both_hold(tmp_path: Path) -> None:
    """A list that changed between two evaluations leaves some pairs, or none; the report is of what is left."""
    recipe = study(tmp_path, "grid.models=[vit_s16]", "grid.seeds=[0]")
    first, second = pairs()
    for cell in cells(recipe):
        finish(recipe, cell)
        if cell.kind == "trained":
            recalled = np.zeros(len(first))
            recalled[:60] = 1
            finished_with(recipe, cell, PairOutcomes("CORUM", GENES, first[:150], second[:150], recalled[:150]))
    trained = next(cell for cell in cells(recipe) if cell.kind == "trained")
    (mean,), (cell_gain,) = found(recipe).means.to_dict("records"), found(recipe).cells["recall"]
    assert mean["pairs"] == 150
    assert mean["gain"] == pytest.approx(60 / 150 - 30 / 150)  # the initialisation recalls 2 of every 10 pairs
    assert cell_gain == pytest.approx(mean["gain"])
    other = tuple(f"other{number:03d}" for number in range(len(GENES)))
    finished_with(recipe, trained, PairOutcomes("CORUM", other, first[:150], second[:150], recalled[:150]))
    assert found(recipe).missing == ("1 recalls of trained cells: the maps have no known pair in common",)


def finished_with(recipe: Recipe, cell: Cell, outcomes: PairOutcomes) -> None:
    """Evaluate a finished cell again, with these outcomes."""
    row = ledger.read(recipe.output, cell.id, "evaluate")
    assert row is not None
    recall = {outcomes.source: row.values["recall"][outcomes.source] | {"recall": outcomes.recall}}
    ledger.record(recipe.output, LedgerRow(cell.id, "evaluate", "x", row.values | {"recall": recall}))
    write_outcomes(cell_folder(recipe, cell) / PAIR_OUTCOMES, [outcomes])


def test_a_source_that_the_initialisation_was_evaluated_without_is_named(tmp_path: Path) -> None:
    recipe = study(tmp_path, "grid.models=[vit_s16]", "grid.seeds=[0]")
    for cell in cells(recipe):
        finish(recipe, cell)
        if cell.kind == "untrained":
            first, second = pairs()
            outcomes = PairOutcomes("HuMAP", GENES, first, second, np.ones(len(first)))
            row = ledger.read(recipe.output, cell.id, "evaluate")
            assert row is not None
            recall = {"HuMAP": row.values["recall"]["CORUM"] | {"recall": 1.0}}
            ledger.record(recipe.output, LedgerRow(cell.id, "evaluate", "x", row.values | {"recall": recall}))
            write_outcomes(cell_folder(recipe, cell) / PAIR_OUTCOMES, [outcomes])
    (reason,) = found(recipe).missing
    assert "evaluated without this source" in reason


def test_pairs_of_few_uneven_complexes_are_not_said_to_be_of_one() -> None:
    row = {"compute": 1e18, "seeds": 1, "model": "m", "dataset": "d", "low": -1.0, "high": 1.0, "groups": 1.96}
    said = sentence("CORUM", pd.DataFrame([row]), "")
    assert "the known pairs count as fewer than two complexes of equal size, and more complexes would be." in said


VIT = "size: S, patch: 16, width: 16, depth: 2, heads: 2"
NETWORKS = {
    "mae_vit": VIT,
    "channel_agnostic": VIT,
    "vit_classifier": VIT,
    "densenet": "adaptive: true",
    "mu_net": "size: MU-net-M, widths: [8, 16], blocks: 1, kernel: 3, mask_ratio: 0.75",
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_untrained_cell_has_the_weights_of_a_trained_one_before_its_first_step(
    kind: str, tiny_recipe_file: Path
) -> None:
    """Heads of classifiers are drawn after the rest, so that what is embedded does not depend on the classes."""
    overrides = [f"models.net={{kind: {kind}, {NETWORKS[kind]}}}", "grid.models=[net]"]
    recipe = load(tiny_recipe_file, "laptop", overrides)
    grid = cells(recipe)
    trained = next(cell for cell in grid if cell.kind == "trained")
    untrained = next(cell for cell in grid if cell.id == own_initialisation(trained))
    before, own = (_weights(cell) for cell in (trained, untrained))
    shared = [name for name in own if own[name].shape == before[name].shape]
    assert len(shared) > 10
    assert all(torch.equal(own[name], before[name]) for name in shared)


def _weights(cell: Cell) -> dict[str, torch.Tensor]:
    """Weights as training begins with them."""
    assert cell.architecture is not None
    torch.manual_seed(cell.seed)
    return build(cell.architecture, classes=9 if cell.is_classifier and cell.kind == "trained" else 0).state_dict()
