"""Covers `curves`: of many cells some readings of each are drawn, the first and the last among them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis.figures.loss import MOST_READINGS, spread
from analysis.figures.style import MANY
from harness.report.page.curves import _plain, _short, drawn_points, finite, frontier, is_thinned


def curves(cells: int, readings: int) -> pd.DataFrame:
    numbers = np.arange(readings)
    parts = [
        pd.DataFrame({"cell": f"c{cell}", "crops": numbers, "compute": numbers, "loss": 1.0}) for cell in range(cells)
    ]
    return pd.concat(parts)


@pytest.mark.parametrize(("cells", "expected"), [(MANY, False), (MANY + 1, True)])
def test_curves_are_thinned_from_a_number_of_cells_on(cells: int, *, expected: bool) -> None:
    assert is_thinned(curves(cells, 3)) == expected
    assert not is_thinned(curves(cells, 1))  # readings before the first crop are not drawn at all


@pytest.mark.parametrize("count", [1, 2, MOST_READINGS, MOST_READINGS + 1, 1000])
def test_the_first_and_the_last_reading_are_always_drawn(count: int) -> None:
    places = spread(count)
    assert (places[0], places[-1]) == (0, count - 1)
    assert len(places) == min(count, MOST_READINGS)


def test_the_frontier_has_the_best_loss_at_each_compute() -> None:
    table = pd.DataFrame({"compute": [0.0, 1.0, 2.0, 3.0], "loss": [0.1, 0.9, 0.95, 0.7]})
    assert frontier(table) == {"x": [1.0, 3.0], "y": [0.9, 0.7]}


def test_numbers_are_what_json_has() -> None:
    assert [finite(value) for value in (1, 2.5, math.nan, math.inf, "x", None)] == [1.0, 2.5, None, None, None, None]
    assert _plain({"a": np.float64(1.5), "b": math.nan, "c": "x"}) == {"a": 1.5, "b": None, "c": "x"}
    assert _short([0.123456789, 1.23456789e20]) == [0.12346, 1.2346e20]


def test_a_point_has_its_compute_under_every_convention() -> None:
    tables = {
        name: pd.DataFrame({"cell": ["a"], "compute": [value]}) for name, value in (("one", 1.0), ("two", math.nan))
    }
    assert drawn_points(tables, "one") == [{"cell": "a", "compute": {"one": 1.0, "two": None}}]
