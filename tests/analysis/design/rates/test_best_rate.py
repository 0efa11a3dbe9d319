"""Best rates: known optima are recovered, edges and divergence are said, and no optimum is made up."""

import numpy as np
import pytest

from analysis.design.rates.best_rate import best_rates
from analysis.laws.metric import Metric

LOSS = Metric("loss")
RATES = 1e-4 * 2.0 ** np.arange(7)


def losses(rate, best, bend=0.02, skew=0.0):
    away = np.log(rate / best)
    return 2 * np.exp(bend * away**2 * (1 + skew * np.tanh(away)))


def one(rate, y, metric=LOSS, **options):
    (found,) = best_rates(["S"] * len(rate), rate, y, metric, **options)
    return found


@pytest.mark.parametrize("best", [3e-4, 8e-4, 2.5e-3])
def test_a_known_optimum_is_recovered_without_noise(best):
    found = one(RATES, losses(RATES, best))
    assert found.rate == pytest.approx(best, rel=1e-6)
    assert found.low <= best * (1 + 1e-6)
    assert best * (1 - 1e-6) <= found.high
    assert (found.edge, found.rates, found.seeds) == (None, 7, 1)


def test_shares_and_scores_are_best_where_they_are_highest():
    share = one(RATES, 1 - losses(RATES, 8e-4) / 10, Metric("share"))
    score = one(RATES, -20 * np.log(losses(RATES, 8e-4)), Metric("score"))
    falling = one(RATES, np.log(losses(RATES, 8e-4)) - 5, Metric("score", falling=True))
    assert [found.rate for found in (share, score, falling)] == pytest.approx([8e-4] * 3, rel=1e-6)


def test_each_size_has_its_own_reading_in_the_order_of_the_runs():
    sizes = ["L"] * 7 + ["S"] * 7
    found = best_rates(sizes, np.tile(RATES, 2), np.concatenate([losses(RATES, 4e-4), losses(RATES, 1.6e-3)]), LOSS)
    assert [reading.size for reading in found] == ["L", "S"]
    assert [reading.rate for reading in found] == pytest.approx([4e-4, 1.6e-3])
    assert found[0].text.startswith("L: best rate 0.0004, 90% interval ")


@pytest.mark.parametrize(("best", "edge", "way"), [(2e-5, "lowest", "lower"), (1e-1, "highest", "higher")])
def test_a_best_rate_at_the_edge_is_said_and_no_optimum_is_claimed(best, edge, way):
    found = one(RATES, losses(RATES, best))
    assert (found.edge, found.rate, found.low, found.high) == (edge, None, 0.0, np.inf)
    assert found.text.endswith(f"the {edge} of the sweep: no optimum is shown; run {way} rates")


@pytest.mark.parametrize("gone", [np.nan, np.inf])
def test_a_rate_whose_neighbour_diverged_bounds_the_optimum_only(gone):
    y = np.where(RATES > 1e-3, gone, losses(RATES, 4e-3))
    found = one(RATES, y)
    assert (found.edge, found.rate, found.best_run) == ("diverged", None, pytest.approx(8e-4))
    assert (found.low, found.high) == pytest.approx((4e-4, 1.6e-3))
    assert "no optimum is shown; it is between 0.0004 and 0.0016" in found.text


def test_one_seed_that_diverges_spoils_its_rate_and_far_divergence_does_no_harm():
    rate, seeds = np.repeat(RATES, 2), [0, 1] * 7
    y = losses(rate, 4e-4)
    y[-1] = np.nan
    found = one(rate, y, seeds=seeds)
    assert found.rate == pytest.approx(4e-4)
    y[7] = np.nan  # 8e-4, beside the best
    assert one(rate, y, seeds=seeds).edge == "diverged"


def test_levels_of_seeds_do_not_widen_the_interval_but_noise_does():
    rng, rate, seeds = np.random.default_rng(0), np.tile(RATES, 3), np.repeat([0, 1, 2], 7)
    noise = 0.001 * rng.normal(size=21)
    widths = [
        np.log(found.high / found.low)
        for shift in (noise, noise + 0.1 * seeds, 5 * noise)
        for found in [one(rate, losses(rate, 8e-4) * np.exp(shift), seeds=seeds.tolist())]
    ]
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
    assert widths[2] > 2 * widths[0]


def test_three_rates_of_one_seed_have_an_open_interval_and_noise_alone_no_optimum():
    found = one(RATES[:3], losses(RATES[:3], 2e-4))
    assert found.rate == pytest.approx(2e-4)
    assert (found.low, found.high) == (0.0, np.inf)
    flat = 2 + 0.01 * np.array([0.1, 0, 0.1, 0.2, 0, 0.1, 0.2])
    repeated = np.concatenate([flat, flat[::-1], 4 - flat])
    found = one(np.tile(RATES, 3), repeated, seeds=np.repeat([0, 1, 2], 7).tolist())
    assert found.rate is None
    assert found.text.endswith("no optimum is shown")


@pytest.mark.parametrize(
    ("rate", "y", "message"),
    [
        (RATES[:2], [2.0, 1.0], "S: 2 rates at which no run diverged; a parabola needs 3"),
        (RATES[:3], [2.0, np.nan, 1.0], "S: 2 rates at which no run diverged"),
        (-RATES[:3], [2.0, 1.0, 2.0], "every rate must be positive"),
        (RATES[:3], [2.0, 0.0, 2.0], "1 of 3 values of the metric have no logarithm"),
        (RATES[:3], [2.0, 1.0], "differ in length"),
    ],
)
def test_a_sweep_that_cannot_be_read_is_an_error(rate, y, message):
    with pytest.raises(ValueError, match=message):
        one(rate, np.array(y))


@pytest.mark.parametrize(("skew", "least", "most"), [(0.0, 0.9, 1.0), (0.4, 0.83, 0.97)])
def test_intervals_contain_the_optimum_of_even_and_skewed_sweeps(skew, least, most):
    """The interval counts on some skew: of an exact parabola it is wider than it need be."""
    held = []
    for number in range(150):
        rng = np.random.default_rng((3, number))
        count, seeds, step = rng.integers(5, 9), rng.integers(1, 6), rng.choice([np.log(2), np.log(10) / 2])
        rates = np.exp(step * np.arange(count))
        best = np.exp(step * rng.uniform(1, count - 2))
        rate, labels = np.repeat(rates, seeds), np.tile(np.arange(seeds), count)
        noise = 0.003 * (rng.normal(size=(1, seeds)) + rng.normal(size=(count, seeds))).ravel()
        found = one(rate, losses(rate, best, skew=skew) * np.exp(noise), seeds=labels.tolist())
        if found.rate is not None:
            held.append(found.low <= best <= found.high)
    assert len(held) > 100
    assert least <= np.mean(held) <= most
