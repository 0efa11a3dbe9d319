"""The compute-optimal frontier and iso-FLOP readings: exponents of a known law, and Chinchilla's as published."""

import numpy as np
import pandas as pd
import pytest

from analysis.design.frontier import budgets, compute_optimal, iso_flop, iso_flop_exponent, split
from analysis.fitting.estimate import Points, Settings, fit_law
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric

ALPHA, BETA = 0.34, 0.28


def law(size, data):
    return 1.7 + 400 * size**-ALPHA + 410 * data**-BETA


def runs(noise=0.0, seed=0):
    """Nine sizes around the optimum at each of seven budgets."""
    compute = np.repeat(np.geomspace(1e18, 1e21, 7), 9)
    share = BETA / (ALPHA + BETA)
    centre = (ALPHA * 400 / (BETA * 410)) ** (1 / (ALPHA + BETA)) * (compute / 6) ** share
    size = centre * np.tile(np.geomspace(0.3, 3, 9), 7)
    data = compute / (6 * size)
    loss = law(size, data) * np.exp(noise * np.random.default_rng(seed).normal(size=len(size)))
    return Points(np.column_stack([size, data]), loss), compute


def test_the_frontier_of_a_known_law_minimises_it():
    points, _ = runs()
    fitted = fit_law(named_law("joint"), points, Metric("loss"), Settings(huber=1e-3))
    found = compute_optimal(fitted, points, [1e22])
    assert found.size_exponent.value == pytest.approx(BETA / (ALPHA + BETA), rel=1e-3)
    sizes = np.geomspace(found.size[0] / 2, found.size[0] * 2, 201)
    assert np.argmin(law(sizes, 1e22 / 6 / sizes)) == pytest.approx(100, abs=2)
    assert found.size[0] * found.data[0] * 6 == pytest.approx(1e22)
    assert found.loss[0] == pytest.approx(law(found.size[0], found.data[0]), rel=1e-3)


def test_iso_flop_parabolas_read_the_same_exponent():
    points, compute = runs(noise=0.0005)
    readings = iso_flop(points, compute)
    assert [one.runs for one in readings] == [9] * 7
    assert all(one.enclosed for one in readings)
    found = iso_flop_exponent(readings)
    assert found.low < BETA / (ALPHA + BETA) + 0.01
    assert found.value == pytest.approx(BETA / (ALPHA + BETA), abs=0.03)


def test_the_exponent_s_interval_contains_the_true_value():
    held = 0
    for seed in range(10):
        points, _ = runs(noise=0.003, seed=seed)
        fitted = fit_law(named_law("joint"), points, Metric("loss"))
        found = compute_optimal(fitted, points, [1e22], count=200).size_exponent
        held += found.low <= BETA / (ALPHA + BETA) <= found.high
    assert held >= 7  # of 9 expected


def test_chinchilla_s_points_give_besiroglu_s_even_split(real_data):
    table = pd.read_csv(real_data / "scaling_laws" / "chinchilla_epoch.csv").sort_values("loss").iloc[:-5]
    size, flop = table["Model Size"].to_numpy(), table["Training FLOP"].to_numpy()
    points = Points(np.column_stack([size, flop / (6 * size)]), table["loss"].to_numpy())
    fitted = fit_law(named_law("joint"), points, Metric("loss"), Settings(huber=1e-3))
    found = compute_optimal(fitted, points, [5.76e23])
    assert found.size_exponent.value == pytest.approx(0.513, abs=0.002)  # beta / (alpha + beta) as they publish it
    assert found.size_exponent.low < 0.513 < found.size_exponent.high


def test_too_few_enclosed_minima_give_no_exponent():
    points, compute = runs()
    few = compute < 2e18
    with pytest.raises(ValueError, match="1 budgets whose runs enclose their minimum; an exponent needs 3"):
        iso_flop_exponent(iso_flop(points.subset(few), compute[few]))


def symmetric(compute, centre=1.0, exponent=0.3):
    """Seven sizes at each budget of a law whose best size is sqrt(C / 6), exactly."""
    spent = np.repeat(compute, 7)
    size = centre * np.sqrt(spent / 6) * np.tile(np.geomspace(0.3, 3, 7), len(compute))
    data = spent / 6 / size
    return Points(np.column_stack([size, data]), 1.7 + 400 * size**-exponent + 400 * data**-exponent), spent


@pytest.mark.parametrize("step", [1.2, 1.5, 2.0, 10.0])
def test_budgets_closer_than_half_a_decade_are_not_merged(step):
    points, spent = symmetric(1e18 * step ** np.arange(8))
    readings = iso_flop(points, spent)
    assert [one.runs for one in readings] == [7] * 8
    found = iso_flop_exponent(readings)
    assert found.value == pytest.approx(0.5, abs=1e-6)
    assert found.low < 0.5 < found.high


def test_budgets_that_are_not_exact_are_found_by_the_gaps_between_them():
    compute = np.repeat(1e18 * 2.0 ** np.arange(6), 5) * np.exp(0.03 * np.random.default_rng(0).normal(size=30))
    assert np.bincount(budgets(compute)).tolist() == [5] * 6


def test_chinchilla_s_nine_budgets_are_found_between_other_runs(real_data):
    """Hoffmann et al. list 6e18 to 3e21 and read N as C^0.49; the digitised compute is some per cent lower."""
    table = pd.read_csv(real_data / "scaling_laws" / "chinchilla_epoch.csv").sort_values("loss").iloc[:-5]
    size, flop = table["Model Size"].to_numpy(), table["Training FLOP"].to_numpy()
    readings = iso_flop(Points(np.column_stack([size, flop / (6 * size)]), table["loss"].to_numpy()), flop)
    for budget in (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21):
        assert any(0.88 < one.compute / budget < 1.02 and one.runs >= 9 for one in readings)
    assert iso_flop_exponent(readings).value == pytest.approx(0.49, abs=0.03)


def test_a_lopsided_grid_is_named_where_parabolas_are_read():
    for centre, said in ((1.0, False), (1.8, True)):
        points, _ = symmetric(np.geomspace(1e18, 1e21, 7), centre)
        found = split(fit_law(named_law("joint"), points, Metric("loss"), Settings(huber=1e-3)), points)
        assert any("far from the middle of their sizes" in warning for warning in found.warnings) == said


def test_parabolas_that_disagree_with_the_law_are_named():
    """Grids that drift off the optimum: the parabolas' exponent is biased, the law's is exact."""
    compute = np.geomspace(1e18, 1e22, 7)
    parts = [
        symmetric(np.array([one]), centre)[0] for one, centre in zip(compute, np.geomspace(0.4, 2.5, 7), strict=True)
    ]
    points = Points(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))
    found = split(fit_law(named_law("joint"), points, Metric("loss"), Settings(huber=1e-3)), points)
    assert found.frontier.size_exponent.value == pytest.approx(0.5, abs=1e-3)
    assert any("disagrees with the law's 0.500" in warning for warning in found.warnings)
