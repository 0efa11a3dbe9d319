"""The page's panel of the lifetime frontier."""

from __future__ import annotations

from pathlib import Path

import pytest
from lifetime_study import finished_study, unfinished

from analysis.page.render import page
from harness.report.lifetime.frontiers import lifetimes
from harness.report.lifetime.panel import panels
from harness.report.page.data import study as page_data


@pytest.mark.slow
def test_a_panel_has_the_frontier_s_numbers_and_is_on_the_page(tmp_path: Path) -> None:
    recipe = finished_study(tmp_path)
    drawn = {panel.metric: panel for panel in panels(recipe)}
    panel = drawn["recall, mean over sources of patch 8"]
    (reference,) = [one for one in lifetimes(recipe, [0.0, 2.2e6]) if one.name == panel.metric]
    life = reference.units[-1].life
    at = {place["wells"]: place for place in panel.places}
    assert at[0.0]["size"] == pytest.approx(life.size.value[0], rel=1e-6)
    one_screen = next(place for wells, place in at.items() if wells == pytest.approx(2.2e6))
    assert one_screen["size"] == pytest.approx(life.size.value[1], rel=1e-6)
    assert one_screen["total"] == pytest.approx(one_screen["train"] + one_screen["embed"])
    assert all(
        low <= y <= high for low, y, high in zip(*(panel.line[key] for key in ("low", "y", "high")), strict=True)
    )
    html = page(page_data(recipe))
    assert 'data-life="recall, mean over sources of patch 8"' in html
    assert "The best size over its life" in html


def test_a_study_without_runs_has_no_panel_on_the_page(tmp_path: Path) -> None:
    data = page_data(unfinished(tmp_path))
    assert list(data.lives) == []
    assert "The best size over its life" not in page(data)
