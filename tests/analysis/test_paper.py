"""The paper's Figures 5 and 8 from Table 6: the refit agrees with an independent one, bounds stay bounds."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from analysis import paper
from analysis.reference.tables import REFERENCE

# An independent refit of the nine masked autoencoders: slope per decade ± 95%, and L/8+ on RPI-93M from the others.
REFIT = {
    "CORUM": (0.0247, 0.0163, 0.610, 0.622),
    "hu.MAP": (0.0178, 0.0101, 0.418, 0.443),
    "Reactome": (0.0113, 0.0049, 0.263, 0.267),
    "StringDB": (0.0175, 0.0104, 0.468, 0.484),
}


@pytest.mark.parametrize("source", REFIT)
def test_the_refit_agrees_with_an_independent_one(source):
    found = paper.trend(source, "touvron")
    slope, half, predicted, measured = REFIT[source]
    assert (round(found.slope, 4), round(found.half_width, 4)) == (slope, half)
    assert (round(found.predicted, 3), found.measured) == (predicted, measured)


def test_the_trend_is_carried_by_model_cost_and_not_by_data():
    factors = paper.trend("StringDB", "touvron").factors
    assert [round(value, 3) for value in (*factors.slopes, *factors.half_widths)] == [0.030, 0.000, 0.013, 0.017]
    assert factors.one_sided == "cost per crop"
    assert factors.p_equal == pytest.approx(0.0315, abs=1e-3)


@pytest.mark.parametrize(("source", "p"), [("hu.MAP", 0.12), ("Reactome", 0.18)])
def test_no_factor_carries_the_trend_where_the_slopes_may_be_equal(source, p):
    """One slope is significant and the other is not, but they do not differ significantly from each other."""
    found = paper.trend(source, "touvron")
    assert found.factors.one_sided is None
    assert round(found.factors.p_equal, 2) == p
    assert f"which factor carries the trend cannot be told: the slopes may be equal (p = {p})" in found.supported


def test_no_ceiling_is_claimed_from_nine_points():
    for source in REFIT:
        found = paper.trend(source, "touvron")
        assert found.ceiling[1] == 1.0
        assert "A ceiling is not identified" in found.supported


def test_bounds_of_compute_widen_the_interval_and_raise_the_slope():
    """Drawn lower, the RPI-52M models leave less compute for the same recall."""
    found = paper.trend("CORUM", "mae_train")
    pinned = paper._drawn_lines(*[_upper("CORUM", "mae_train")] * 2, _recall("CORUM"), np.random.default_rng(0))
    width = found.slope_high - found.slope_low
    assert width > np.ptp(np.quantile(pinned[:, 1], [0.025, 0.975]))
    assert np.median(found.draws[:, 1]) > np.median(pinned[:, 1])


def _upper(source, convention):
    return np.log10(paper.masked_autoencoders(source)[f"compute_{convention}_high"].to_numpy())


def _recall(source):
    return paper.masked_autoencoders(source)["recall"].to_numpy()


@pytest.mark.slow
def test_one_command_draws_every_convention_and_states_what_is_supported(tmp_path, capsys):
    assert paper.main(["--output", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    for convention in ("touvron", "dense_forward", "mae_train"):
        assert {f"figures_5_and_8_{convention}.{suffix}" for suffix in ("png", "svg", "pdf")} <= names
    told = (tmp_path / "what_table6_supports.md").read_text()
    assert told.count("the trend is carried by cost per crop alone") == 8
    assert "+0.0247 ± 0.0163 per decade" in told


def test_a_panel_has_nine_models_and_bars_for_the_five_unpinned_ones():
    drawn = paper.figure("touvron", [paper.trend("CORUM", "touvron")])
    axes = drawn.axes[0]
    marks = [one for one in axes.collections if isinstance(one, PathCollection)]
    assert len(marks) == 9
    hollow = [one for one in marks if np.allclose(one.get_facecolor()[0][:3], 1)]
    assert len(hollow) == 5


@pytest.mark.parametrize(("name", "rows"), [("table7_cellprofiler_r2", 10), ("table8_perturbation_retrieval", 48),
                                            ("table9_sibling_retrieval", 32)])  # fmt: skip
def test_the_paper_s_other_tables_are_complete(name, rows):
    table = pd.read_csv(REFERENCE / f"{name}.csv")
    assert len(table) == rows
    assert table.notna().all(axis=None)


def test_a_source_that_is_not_in_table_6_is_rejected():
    with pytest.raises(ValueError, match="Table 6 has no source 'SIGNOR'; it has StringDB"):
        paper.trend("SIGNOR", "touvron")
