"""Which points one law is asked of. Covers `points`, `is_open` and the cost of proposed branches."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from finished_cells import finished

from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Fit
from harness.report.page.data import study
from harness.report.points import for_laws, one_family, points, trends
from harness.report.rows import is_open
from harness.storage import ledger
from harness.storage.ledger import LedgerRow

SCALING = Path(__file__).parents[3] / "recipes" / "scaling.yaml"


def test_a_law_is_asked_of_annealed_runs_unless_the_recipe_wants_all() -> None:
    table = pd.DataFrame({
        "kind": "mae_vit", "trained": [True] * 8 + [False], "source": ["a"] * 4 + ["b"] * 4 + ["a"],
        "compute": [1e18, 1e19, 1e20, 1e21] * 2 + [float("nan")], "recall": [0.1, 0.2, 0.3, 0.9] * 2 + [0.1],
        "annealed": pd.array([True, None, True, False, True, False, True, False, None], dtype="boolean"),
    })  # fmt: skip
    assert for_laws(table, Fit())["recall"].tolist() == [0.1, 0.2, 0.3, 0.1, 0.3, 0.1]
    (fit,) = trends(table, Fit(), "touvron")  # source b has two computes left
    assert (fit.source, fit.runs, fit.left_out, fit.unknown) == ("a", 3, 1, 1)
    assert fit.law.slope == pytest.approx(0.1)
    every = trends(table, Fit(include_unannealed=True), "touvron")
    assert [(fit.source, fit.runs, fit.left_out) for fit in every] == [("a", 4, 0), ("b", 4, 0)]


def test_a_law_is_asked_of_one_kind_of_model_and_keeps_its_baselines() -> None:
    rows = [("mae_vit", True)] * 3 + [("densenet", True)] * 2 + [("mae_vit", False), ("", False)]
    found = pd.DataFrame(rows, columns=["kind", "trained"])
    kept = one_family(found)
    assert kept["kind"].tolist() == ["mae_vit"] * 4 + [""]
    assert one_family(found[~found["trained"]]).equals(found[~found["trained"]])


def test_a_snapshot_of_a_run_that_stopped_before_it_is_no_point_of_its_own(tmp_path: Path) -> None:
    one = ["grid.models=[vit_s16]", "grid.datasets=[rxrx3]", f"output={tmp_path}", "train.snapshots=[0.2, 0.6]"]
    recipe = load(SCALING, "slurm", one)
    first, second, final = [cell for cell in cells(recipe) if cell.training is not None]
    for cell, steps, planned in ((first, 20, 20), (second, 40, 60), (final, 40, 100)):
        values = {"steps": steps, "planned_steps": planned, "annealed": False}
        ledger.record(recipe.output, LedgerRow(cell.id, "train", "x", values | {"crops": steps}))
        finished(recipe, cell, 0.3, steps, sources=("CORUM",), **values)
    assert points(recipe, cells(recipe), "touvron")["cell"].tolist() == [first.id, final.id]


def test_a_segment_is_open_only_where_what_starts_from_it_is(tmp_path: Path) -> None:
    """Branches that were trained straight through, before others had the trunk in common with them."""
    stable = "train.schedule={name: warmup_stable_decay, ends: [0.25, 0.5, 1.0]}"
    one = ["grid.models=[vit_s16]", "grid.datasets=[rxrx3]", f"output={tmp_path}", "train.early_stopping=null", stable]
    recipe = load(SCALING, "slurm", one)
    grid = [cell for cell in cells(recipe) if cell.training is not None]
    for cell in grid[2:]:
        finished(recipe, cell, 0.3)
    assert [is_open(recipe, cell) for cell in grid] == [False] * 5
    ledger.row_path(recipe.output, grid[-1].id, "train").unlink()
    assert [is_open(recipe, cell) for cell in grid] == [True, True, False, False, True]
    unfinished = {row.cell for row in study(recipe).cells if row.state != "done"}
    assert unfinished & {cell.id for cell in grid[:2]} == {cell.id for cell in grid[:2]}
