"""Scatter between architectures: hand-derived and published cases, statsmodels' MixedLM, and coverage."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.fitting.variance_components import Levels, mixed_fit, restricted_likelihood, same

# Davies and Goldsmith (1972): yield of dyestuff, 5 preparations from each of 6 batches (lme4's `Dyestuff`). REML by
# lme4's documentation: standard deviation 42.001 between batches, 49.510 within; mean 1527.5.
DYESTUFF = np.array(
    [[1545, 1440, 1440, 1520, 1580], [1540, 1555, 1490, 1560, 1495], [1595, 1550, 1605, 1510, 1560],
     [1445, 1440, 1595, 1465, 1545], [1595, 1630, 1515, 1635, 1625], [1520, 1455, 1450, 1480, 1445]], dtype=float
)  # fmt: skip


def letters(groups: int, each: int) -> tuple[str, ...]:
    return tuple("abcdefghij"[group] for group in range(groups) for _ in range(each))


def best_ratio(targets: np.ndarray, design: np.ndarray, names: tuple[str, ...]) -> float:
    ratios = np.geomspace(1e-3, 1e3, 4001)
    return float(ratios[np.argmax([restricted_likelihood(targets, design, names, ratio) for ratio in ratios])])


def test_the_restricted_likelihood_of_balanced_groups_is_highest_where_mean_squares_say() -> None:
    """One way, balanced: between² = (MS between - MS within) / runs per group, by hand; as published for Dyestuff."""
    within = DYESTUFF.var(axis=1, ddof=1).mean()
    between = DYESTUFF.mean(axis=1).var(ddof=1) - within / 5
    assert (within**0.5, between**0.5) == pytest.approx((49.510, 42.001), abs=1e-3)
    found = best_ratio(DYESTUFF.ravel(), np.ones((30, 1)), letters(6, 5))
    assert found == pytest.approx(between / within, rel=2e-3)


def test_the_deviations_of_a_balanced_case_are_near_those_published() -> None:
    fit = mixed_fit(DYESTUFF.ravel(), np.ones((30, 1)), letters(6, 5))
    deviation = fit.deviation(0.9)
    assert fit.contrast(np.ones((1, 1))).centre[0] == pytest.approx(1527.5)
    assert 25 < deviation.between < 60
    assert deviation.low < 42.001 < deviation.high
    assert deviation.within == pytest.approx(49.510, rel=0.05)
    assert deviation.architectures == 6


def line(design: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The predictor (m, n) of least squares at rows of the design (m, p)."""
    return places @ np.linalg.pinv(design)


def grid(seed: int, scatter: float, noise: float, groups: int = 5, each: int = 4) -> tuple[np.ndarray, ...]:
    """Places, values of a line with slope 2, and architectures."""
    rng = np.random.default_rng(seed)
    places = np.repeat(rng.uniform(0, 2, groups), each) + np.tile(np.linspace(0, 1, each), groups)
    level = np.repeat(scatter * rng.normal(size=groups), each)
    return places, 2 * places + level + noise * rng.normal(size=len(places))


@pytest.mark.parametrize("seed", range(3))
def test_a_line_with_levels_is_that_of_statsmodels(seed: int) -> None:
    model = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    x, y = grid(seed, 0.3, 0.1)
    names, design = letters(5, 4), np.column_stack([np.ones(20), x])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = model.MixedLM(y, design, groups=np.array(names)).fit(reml=True)
    ratio = best_ratio(y, design, names)
    assert ratio == pytest.approx(peer.cov_re[0, 0] / peer.scale, rel=5e-3)
    white = Levels(names, ratio).whitener
    coefficients = np.linalg.lstsq(white @ design, white @ y, rcond=None)[0]
    np.testing.assert_allclose(coefficients, peer.fe_params, rtol=1e-3)
    fit = mixed_fit(y, design, names).contrast(np.eye(2))
    np.testing.assert_allclose(fit.centre, peer.fe_params, atol=0.05)
    wald = stats.norm.ppf(0.95) * np.asarray(peer.bse)[:2]
    assert (fit.half_width(0.9) > wald).all()  # which takes the ratio for known


def test_the_whitener_makes_levels_independent() -> None:
    levels = Levels(("a", "b", "a", "a", "c"), 3.0)
    covariance = np.eye(5) + 3 * same(levels.names)
    white = levels.whitener
    np.testing.assert_allclose(white @ covariance @ white.T, np.eye(5), atol=1e-12)


def test_runs_of_an_architecture_each_have_the_textbook_intervals() -> None:
    """Scatter then counts as noise, whatever its share: Student's t of SciPy's linregress."""
    x, y = grid(0, 0.0, 0.2)
    design, names = np.column_stack([np.ones(20), x]), [str(number) for number in range(20)]
    fit = mixed_fit(y, design, names)
    peer, quantile = stats.linregress(x, y), stats.t.ppf(0.95, 18)
    assert fit.contrast(np.array([[0.0, 1.0]])).half_width(0.9)[0] == pytest.approx(quantile * peer.stderr)
    residual = y - peer.intercept - peer.slope * x
    spread = np.sqrt(residual @ residual / 18)
    far = np.sqrt(1 + 1 / 20 + (4 - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2))
    run = fit.errors(line(design, np.array([[1.0, 4.0]])), [None])
    assert run.half_width(0.9)[0] == pytest.approx(quantile * spread * far)


def test_a_run_of_a_known_architecture_has_its_level_and_a_narrower_interval() -> None:
    x, y = grid(1, 0.5, 0.01)
    design = np.column_stack([np.ones(20), x])
    fit = mixed_fit(y, design, letters(5, 4))
    white, level = Levels(letters(5, 4), fit.ratio).whitener, fit.level(["a", "e", None])
    law, at_points = (line(white @ design, rows) @ white for rows in (np.array([[1.0, 1.5]] * 3), design))
    predictor = law + level - level @ at_points
    runs, levels = fit.errors(predictor, ["a", "e", None]), (y - 2 * x).reshape(5, 4).mean(axis=1)
    np.testing.assert_allclose((predictor @ y)[:2], 3 + levels[[0, 4]], atol=0.03)
    assert runs.half_width(0.9)[0] < 0.2 * runs.half_width(0.9)[2]


def test_a_level_is_the_mean_residual_shrunk_by_the_ratio() -> None:
    """n ratio / (1 + n ratio) of the mean of n residuals (Robinson 1991); none for a new architecture."""
    fit = mixed_fit(DYESTUFF.ravel(), np.ones((30, 1)), letters(6, 5))
    residual = DYESTUFF.ravel() - DYESTUFF.mean()
    shrink = 5 * fit.ratio / (1 + 5 * fit.ratio)
    expected = [shrink * (DYESTUFF[2].mean() - DYESTUFF.mean()), 0.0]
    np.testing.assert_allclose(fit.level(["c", None]) @ residual, expected)


def test_draws_agree_with_the_intervals() -> None:
    x, y = grid(2, 0.2, 0.1)
    design = np.column_stack([np.ones(20), x])
    fit = mixed_fit(y, design, letters(5, 4))
    drawn, noise = fit.draws(40_000, np.random.default_rng(0))
    white = Levels(letters(5, 4), fit.ratio).whitener
    run = fit.errors(line(white @ design, np.array([[1.0, 3.0]])) @ white, [None])
    slope = fit.contrast(np.array([[0.0, 1.0]]))
    law = drawn @ [1.0, 3.0]
    for values, centre, mixture in ((drawn[:, 1], slope.centre[0], slope), (law + noise, law.mean(), run)):
        inside = np.abs(values - centre) <= mixture.half_width(0.9)[0]
        assert inside.mean() == pytest.approx(0.9, abs=0.01)


def test_branches_of_one_trunk_share_a_level_within_their_architecture() -> None:
    """Repeats of a run say nothing new: the slope is as uncertain as with one of each."""
    x, y = grid(3, 0.2, 0.1)
    names = np.array(letters(5, 4))
    alone = mixed_fit(y, np.column_stack([np.ones(20), x]), names.tolist())
    rows = np.repeat(np.arange(20), 3)
    jitter = 1e-3 * np.random.default_rng(0).normal(size=60)
    design = np.column_stack([np.ones(60), x[rows]])
    trunks = rows.astype(str).tolist()
    told = mixed_fit(y[rows] + jitter, design, names[rows].tolist(), trunks)
    untold = mixed_fit(y[rows] + jitter, design, names[rows].tolist())
    widths = [fit.contrast(np.array([[0.0, 1.0]])).half_width(0.9)[0] for fit in (alone, told, untold)]
    assert widths[1] == pytest.approx(widths[0], rel=0.2)
    assert widths[2] < 0.7 * widths[0]


@given(st.floats(-3, 3), st.floats(0.01, 100), st.permutations(range(20)))
@settings(max_examples=20, deadline=None)
def test_units_offsets_and_order_change_nothing(offset: float, unit: float, order: list[int]) -> None:
    x, y = grid(4, 0.2, 0.1)
    design, names = np.column_stack([np.ones(20), x]), np.array(letters(5, 4))
    plain = mixed_fit(y, design, names.tolist()).contrast(np.eye(2))
    other = mixed_fit(unit * (y + offset)[order], design[order], names[order].tolist()).contrast(np.eye(2))
    np.testing.assert_allclose(other.half_width(0.9), unit * plain.half_width(0.9), rtol=1e-6)
    np.testing.assert_allclose(other.centre, unit * (plain.centre + np.array([offset, 0.0])), rtol=1e-6, atol=1e-9)


def test_what_cannot_be_told_is_said() -> None:
    assert "one architecture" in str(Levels(("a",) * 4).unknown)
    assert "every architecture has one run" in str(Levels(tuple("abcd")).unknown)
    assert Levels(tuple("aabc")).unknown is None
    with pytest.raises(ValueError, match="2 points leave no residuals to judge 2 coefficients by"):
        mixed_fit(np.ones(2), np.eye(2), ["a", "a"])
    with pytest.raises(ValueError, match="1001 points; levels of architectures are fitted to at most 1000"):
        mixed_fit(np.ones(1001), np.ones((1001, 1)), ["a"] * 1001)


@pytest.mark.slow
@pytest.mark.parametrize("scatter", [0.0, 0.1, 0.6])
def test_intervals_cover_with_three_architectures(scatter: float) -> None:
    """90% intervals of the slope and of a run of a fourth architecture; the standard error is 1.7 points."""
    slopes = runs = 0
    for seed in range(300):
        x, y = grid(seed, scatter, 0.1, groups=3, each=3)
        design = np.column_stack([np.ones(9), x])
        fit = mixed_fit(y, design, letters(3, 3))
        white = Levels(letters(3, 3), fit.ratio).whitener
        predictor = line(white @ design, np.array([[1.0, 3.5]])) @ white
        slope, run = fit.contrast(np.array([[0.0, 1.0]])), fit.errors(predictor, [None])
        rng = np.random.default_rng(10_000 + seed)
        truth = 7 + scatter * rng.normal() + 0.1 * rng.normal()
        slopes += abs(slope.centre[0] - 2) <= slope.half_width(0.9)[0]
        runs += abs(predictor[0] @ y - truth) <= run.half_width(0.9)[0]
    assert 0.85 <= slopes / 300 <= 0.96
    assert 0.85 <= runs / 300 <= 0.96
