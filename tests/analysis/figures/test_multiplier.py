"""The forest plot of multipliers: marks where the numbers are, arrows for open ends, names as they are."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from analysis.figures.multiplier import multiplier_forest
from analysis.figures.save import save


def table(*rows):
    columns = ["label", "value", "low", "high", "compute", "extrapolated"]
    return pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows], columns=columns)


def marks(figure):
    return [tuple(mark.get_offsets()[0]) for mark in figure.axes[0].collections if isinstance(mark, PathCollection)]


MULTIPLIERS = table(
    ("muon", 1.8, 1.5, 2.2, np.nan, False),
    ("muon", 2.0, 1.4, 2.6, 1e19, False),
    ("muon", 1.6, 1.2, 2.1, 1e16, True),
    ("$lion$", 0.6, 0.5, 0.7, np.nan, False),
)


def test_values_are_drawn_from_the_top_with_own_exponents_below_in_order_of_compute():
    figure = multiplier_forest(MULTIPLIERS, "adamw")
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert axes.yaxis_inverted()
    heights = dict(marks(figure))
    assert heights[1.8] == 0
    assert heights[0.6] == 1
    assert 0 < heights[1.6] < heights[2.0] < 0.5
    assert [text.get_text() for text in axes.get_yticklabels()] == ["muon", "$lion$"]
    assert axes.get_xlabel() == "Compute of adamw over compute of the variant, same metric"
    low, high = axes.get_xlim()
    assert low < 0.5
    assert high > 2.6


def test_extrapolated_multipliers_are_open_and_explained():
    figure = multiplier_forest(MULTIPLIERS, "adamw")
    faces = {float(mark.get_offsets()[0, 0]): to_hex(mark.get_facecolor()[0]) for mark in figure.axes[0].collections}
    assert faces[1.6] == "#ffffff"
    assert faces[1.8] != "#ffffff"
    assert "extrapolated" in [text.get_text() for text in figure.legends[0].texts]
    plain = multiplier_forest(MULTIPLIERS.assign(extrapolated=False), "adamw")
    assert "extrapolated" not in [text.get_text() for text in plain.legends[0].texts]


def test_open_ends_are_arrows_at_the_edge():
    figure = multiplier_forest(
        table(("a", 1.8, 1.5, 2.2, np.nan, False), ("b", np.nan, 0.0, np.inf, np.nan, False)), "x"
    )
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    arrows = {line.get_marker(): float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() in "<>"}
    assert arrows == {"<": pytest.approx(low), ">": pytest.approx(high)}
    assert 1.8 < high < 10


def test_files_are_written_and_an_empty_table_is_an_error(tmp_path):
    written = save(multiplier_forest(MULTIPLIERS, "$\\frac"), tmp_path / "multiplier")
    assert all(path.stat().st_size > 5000 for path in written)
    with pytest.raises(ValueError, match="no multipliers to draw"):
        multiplier_forest(MULTIPLIERS.iloc[:0], "adamw")
