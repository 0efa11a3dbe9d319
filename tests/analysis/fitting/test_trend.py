"""The log-linear fit: known lines, coverage of intervals, errors, and the refit of the paper's Table 6."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.fitting.trend import MOST_RUNS, fit_log_linear, fit_sources
from analysis.reference.tables import table6


def study(seed, runs=24, noise=0.01):
    rng = np.random.default_rng(seed)
    compute = np.geomspace(1e12, 1e15, runs // 3).repeat(3)  # three seeds per compute
    return compute, 0.1 + 0.02 * np.log10(compute) + noise * rng.normal(size=runs)


def test_a_line_without_noise_is_recovered():
    compute, recall = study(0, noise=0)
    fit = fit_log_linear("CORUM", "touvron", compute, recall)
    assert (fit.law.slope, fit.law.intercept) == pytest.approx((0.02, 0.1))
    assert (fit.slope.low, fit.slope.high) == pytest.approx((0.02, 0.02))
    assert fit.law.predict(1e18) == pytest.approx(0.46)


def test_the_line_is_scipy_s_least_squares():
    compute, recall = study(1)
    fit, peer = fit_log_linear("x", "touvron", compute, recall), stats.linregress(np.log10(compute), recall)
    assert (fit.law.slope, fit.law.intercept) == pytest.approx((peer.slope, peer.intercept))
    # at 24 runs the bootstrap over runs and the textbook's normal theory agree roughly
    assert (fit.slope.high - fit.slope.low) / 2 == pytest.approx(1.96 * peer.stderr, rel=0.35)


def test_intervals_cover_the_true_value_about_as_often_as_stated():
    slopes, laws, new_runs = 0, 0, 0
    for seed in range(100):
        compute, recall = study(seed)
        fit = fit_log_linear("x", "touvron", compute, recall, replicates=400)
        law, run = fit.band([1e16]), fit.band([1e16], new_run=True)
        truth = 0.1 + 0.02 * 16
        slopes += fit.slope.low <= 0.02 <= fit.slope.high
        laws += law.low[0] <= truth <= law.high[0]
        new_runs += run.low[0] <= truth + 0.01 * np.random.default_rng(seed + 1000).normal() <= run.high[0]
    assert min(slopes, laws, new_runs) >= 87  # of 95 expected


def test_branches_of_one_trunk_count_as_one_run():
    """Three branches with the very noise of their trunk say no more than one; apart they would seem to."""
    compute, recall = study(0, runs=12)
    one = fit_log_linear("a", "touvron", compute, recall)
    branches = np.repeat(compute, 3), np.repeat(recall, 3)
    trunks = np.repeat(np.arange(12), 3).astype(str).tolist()
    together = fit_log_linear("a", "touvron", *branches, trunks=trunks)
    apart = fit_log_linear("a", "touvron", *branches)
    widths = [fit.slope.high - fit.slope.low for fit in (one, together, apart)]
    assert widths[1] == pytest.approx(widths[0], rel=1e-9)
    assert widths[2] == pytest.approx(widths[0] / 3**0.5, rel=0.2)
    few = fit_log_linear("a", "touvron", *branches, trunks=["x", "y"] * 18)
    assert few.slope == apart.slope  # two trunks are too few to be drawn


def scattered(seed, scatter=0.03, noise=0.004):
    """Six models with three amounts of data each."""
    rng = np.random.default_rng(seed)
    models = np.repeat(np.arange(6), 3)
    compute = 1e12 * np.geomspace(1, 1000, 6)[models] * np.tile([1.0, 5.0, 25.0], 6)
    recall = 0.1 + 0.02 * np.log10(compute) + scatter * rng.normal(size=6)[models] + noise * rng.normal(size=18)
    return compute, recall, [f"vit_{model}" for model in models]


def test_runs_of_one_model_share_a_level_and_their_amounts_of_data_tell_the_slope():
    """Runs that were independent would have an interval more than three times as wide."""
    hits, widths = 0, []
    for seed in range(60):
        compute, recall, models = scattered(seed)
        told = fit_log_linear("x", "touvron", compute, recall, architectures=models, replicates=200)
        untold = fit_log_linear("x", "touvron", compute, recall, replicates=200)
        hits += told.slope.low <= 0.02 <= told.slope.high
        widths.append((told.slope.high - told.slope.low) / (untold.slope.high - untold.slope.low))
    assert hits >= 53  # of 57 expected
    assert np.median(widths) < 0.4


def test_the_scatter_of_models_is_in_the_summary_and_in_the_band_of_a_new_run():
    compute, recall, models = scattered(1)
    fit = fit_log_linear("x", "touvron", compute, recall, architectures=models, confidence=0.9)
    row = fit.summary()
    assert (row["models"], row["between_models_low"] < 0.03 < row["between_models_high"]) == (6, True)
    assert row["within_models"] == pytest.approx(0.004, rel=0.5)
    law, run = fit.band([1e15]), fit.band([1e15], new_run=True)
    assert run.high[0] - run.low[0] > 3 * row["between_models"] > law.high[0] - law.low[0]


def test_models_with_one_run_each_are_fitted_as_before_and_it_is_said_why():
    compute, recall = study(5)
    plain = fit_log_linear("x", "touvron", compute, recall)
    told = fit_log_linear("x", "touvron", compute, recall, architectures=[str(run) for run in range(24)])
    assert told.slope == plain.slope
    assert "every architecture has one run" in told.summary()["scatter"]
    assert "scatter" not in plain.summary()


def test_units_of_compute_change_no_prediction():
    compute, recall = study(2)
    plain = fit_log_linear("x", "touvron", compute, recall).band([1e13, 1e16])
    rescaled = fit_log_linear("x", "touvron", compute * 1e6, recall).band([1e19, 1e22])
    for name in ("centre", "low", "high"):
        np.testing.assert_allclose(getattr(plain, name), getattr(rescaled, name))


def test_the_fit_keeps_its_convention():
    compute, recall = study(3)
    row = fit_log_linear("CORUM", "mae_train", compute, recall).summary()
    assert (row["convention"], row["convention_version"], row["runs"], row["computes"]) == ("mae_train", 1, 24, 8)


def test_only_trained_runs_are_fitted_and_sources_stay_apart():
    compute, recall = study(4, noise=0)
    rows = [
        {"source": source, "trained": True, "compute": c, "recall": sign * r}
        for source, sign in (("Reactome", 1), ("CORUM", -1))
        for c, r in zip(compute, recall, strict=True)
    ]
    rows.append({"source": "CORUM", "trained": False, "compute": np.nan, "recall": 0.3})
    fits = fit_sources(pd.DataFrame(rows), "touvron")
    assert [(fit.source, fit.law.slope) for fit in fits] == [
        ("Reactome", pytest.approx(0.02)),
        ("CORUM", pytest.approx(-0.02)),
    ]


@pytest.mark.parametrize(
    ("compute", "recall", "message"),
    [
        ([1e12, 1e12, 1e13], [0.2, 0.3, 0.4], "CORUM: 3 runs at 2 distinct computes; a law needs at least 3"),
        ([1e12, 0, 1e13], [0.2, 0.3, 0.4], "CORUM: run 1 has compute 0.0"),
        ([1e12, 1e13, 1e14], [0.2, np.nan, 0.4], "CORUM: run 1 .* recall nan"),
        ([1e12, 1e13], [0.2, 0.3, 0.4], "vectors of one length"),
    ],
)
def test_runs_that_define_no_law_are_rejected(compute, recall, message):
    with pytest.raises(ValueError, match=message):
        fit_log_linear("CORUM", "touvron", compute, recall)


def test_an_unknown_convention_is_rejected():
    with pytest.raises(ValueError, match="unknown compute convention 'flops'"):
        fit_log_linear("CORUM", "flops", [1, 2, 3], [1, 2, 3])


# --- Table 6 ---------------------------------------------------------------------------------------------------------


def masked_autoencoders(source):
    table = table6()
    return table[(table["family"] == "MAE") & (table["benchmark"] == source)]


def test_four_of_nine_masked_autoencoders_have_a_pinned_compute():
    points = masked_autoencoders("CORUM")
    assert (len(points), points["pinned"].sum()) == (9, 4)
    assert (points["compute_touvron_low"] <= points["compute_touvron_high"]).all()
    largest = points[points["train_dataset"] == "RPI-93M"].iloc[0]
    assert largest["compute_touvron_low"] == pytest.approx(5.83e21, rel=1e-3)  # 1,666 G x 3.5 G crops


# Slopes per decade and predictions for L/8+ on RPI-93M from an independent refit. It takes all nine masked
# autoencoders for the slope and the other eight for the prediction, RPI-52M at its upper bound of 50 epochs.
REFIT = [
    ("CORUM", 0.0247, 0.610),
    ("hu.MAP", 0.0178, 0.418),
    ("Reactome", 0.0113, 0.263),
    ("StringDB", 0.0175, 0.468),
]


@pytest.mark.parametrize(("source", "slope", "held_out"), REFIT)
def test_table_6_is_refitted(source, slope, held_out):
    points = masked_autoencoders(source)
    fit = fit_log_linear(source, "touvron", points["compute_touvron_high"], points["recall"])
    assert round(fit.law.slope, 4) == slope
    others, target = points[points["train_dataset"] != "RPI-93M"], points[points["train_dataset"] == "RPI-93M"]
    fit = fit_log_linear(source, "touvron", others["compute_touvron_high"], others["recall"])
    assert round(fit.law.predict(target["compute_touvron_high"]).item(), 3) == held_out


def test_other_families_have_no_compute():
    table = table6()
    others = table[table["family"] != "MAE"]
    assert others["compute_touvron_high"].isna().all()
    assert not others["pinned"].any()
    assert len(table) == 4 * 19  # sources x models with their training sets


def test_of_more_runs_than_levels_can_be_fitted_to_some_are_drawn_and_it_is_said() -> None:
    rng, count = np.random.default_rng(1), MOST_RUNS + 900  # not the seed of the draw
    compute = 10 ** rng.uniform(16, 20, count)
    recall = 0.1 + 0.02 * np.log10(compute) + rng.normal(0, 0.01, count)
    columns = {"source": "CORUM", "trained": True, "compute": compute, "recall": recall}
    points = pd.DataFrame(columns | {"model": [f"m{n % 4}" for n in range(count)]})
    (fit,) = fit_sources(points, "touvron")
    assert (fit.runs, fit.drawn_from, fit.summary()["drawn_from"]) == (MOST_RUNS, count, count)
    assert fit.law.slope == pytest.approx(0.02, abs=4 * 0.01 / (MOST_RUNS**0.5 * np.log10(compute).std()))  # 4 errors
    (whole,) = fit_sources(points.head(MOST_RUNS), "touvron")
    assert (whole.runs, whole.drawn_from) == (MOST_RUNS, 0)
