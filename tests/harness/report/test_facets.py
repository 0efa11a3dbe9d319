"""Covers `facets`: a panel and a law for each point of the axes, with the baselines that fit it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from finished_cells import finished

from harness.grid.cells import cells
from harness.recipe.axes import axis_names
from harness.recipe.load import load
from harness.report.facets import by_facet, facets
from harness.report.points import points
from harness.report.write import report

RECIPE = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
AXES = ["mae.mask_ratio", "train.learning_rate"]


def table() -> pd.DataFrame:
    rows = [(ratio, rate, True) for ratio in (0.5, 0.75) for rate in (1e-4, 2e-4)]
    rows += [(0.5, None, False), (0.75, None, False), (None, None, False)]
    return pd.DataFrame(rows, columns=[*AXES, "trained"]).assign(source="CORUM", cell=range(7))


def test_each_facet_has_its_runs_and_the_baselines_that_fit_it() -> None:
    names = list(facets(table(), AXES))
    assert names == ["mask_ratio=0.5, learning_rate=0.0001", "mask_ratio=0.5, learning_rate=0.0002",
                     "mask_ratio=0.75, learning_rate=0.0001", "mask_ratio=0.75, learning_rate=0.0002"]  # fmt: skip
    by_name = by_facet(table(), AXES).groupby("facet")["cell"].apply(list).to_dict()
    assert by_name == dict(zip(names, ([0, 4, 6], [1, 4, 6], [2, 5, 6], [3, 5, 6]), strict=True))
    assert set(by_facet(table(), AXES)["source"]) == {f"CORUM · {name}" for name in names}


def test_a_snapshot_of_a_trunk_stands_in_every_facet_that_shares_it() -> None:
    rows = [(0.5, 1e-4, True, True), (0.5, 2e-4, True, True), (0.75, 1e-4, True, False), (0.5, None, True, False)]
    shared = pd.DataFrame(rows, columns=[*AXES, "trained", "annealed"]).assign(source="CORUM", cell=range(4))
    by_name = by_facet(shared, AXES).groupby("facet", sort=False)["cell"].apply(list).tolist()
    assert by_name == [[0, 3], [1, 3], [2]]
    alone = shared[3:]
    assert list(facets(alone, AXES)) == ["mask_ratio=0.5"]
    assert by_facet(alone, AXES)["cell"].tolist() == [3]


def test_without_axes_nothing_changes() -> None:
    plain = table().drop(columns=AXES)
    pd.testing.assert_frame_equal(by_facet(plain, []).drop(columns="facet"), plain)


@pytest.mark.slow
def test_a_report_has_a_law_and_a_panel_for_each_point(tmp_path: Path) -> None:
    """Recall rises with compute at one mask ratio and falls at the other: one law through both would be flat."""
    grid = ["grid.models=[vit_s16, vit_b16, vit_l16]", "grid.datasets=[rxrx3, rpi_52m]", "grid.untrained=false"]
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *grid, "grid.axes={mae.mask_ratio: [0.5, 0.75]}"])
    for number, cell in enumerate(cells(recipe)):
        rises = 1 if cell.labels().get("mae.mask_ratio") == 0.5 else -1
        crops = 100_000_000 if cell.dataset == "rpi_52m" else 10_000_000
        finished(recipe, cell, 0.3 + rises * 0.01 * (number % 6), crops, annealed=True)
    written = {path.name for path in report(recipe)}
    assert {"recall_versus_compute.png", "report.html"} <= written
    fits = {fit["source"]: fit for fit in json.loads((tmp_path / "report" / "fits.json").read_text())}
    assert all(any(name.endswith(f"mask_ratio={ratio}") for name in fits) for ratio in (0.5, 0.75))
    stored = pd.read_csv(tmp_path / "report" / "points.csv")
    assert sorted(stored["mae.mask_ratio"].dropna().unique()) == [0.5, 0.75]
    assert not stored["source"].str.contains("mask_ratio").any()
    assert list(points(recipe, cells(recipe), "touvron").columns[-1:]) == axis_names(recipe.grid)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "at 2 points of mae.mask_ratio" in page
