"""The final loss of a run from its beginning: recovered laws, schedules, siblings, and what is not enough to tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.forecast.live import GAINS, MOST_READINGS, Curve, final_loss
from analysis.forecast.rates import PLACES, Rates

SHARES = np.arange(1, 21) / 20


def cosine() -> Rates:
    """A tenth of warm-up, then half a cosine to zero."""
    share = np.linspace(0, 1, PLACES)
    return Rates(np.minimum(share / 0.1, (1 + np.cos(np.pi * np.clip((share - 0.1) / 0.9, 0, 1))) / 2))


def power_law(share: np.ndarray, plateau: float = 0.3, exponent: float = 0.5) -> np.ndarray:
    """A loss that ends at 1: a plateau and a power of the share of the run."""
    return np.asarray(plateau + (1 - plateau) * share**-exponent)


def test_a_power_law_is_continued() -> None:
    seen = Curve(SHARES, power_law(SHARES)).until(0.4)
    end = final_loss(seen, Rates.constant())
    assert end.quantile(0.5) == pytest.approx(1.0, rel=0.04)  # the prior's plateau is not the curve's
    low, high = end.interval()
    assert low < 1.0 < high < seen.loss[-1]


def test_a_decaying_rate_is_not_extrapolated_as_if_its_tail_went_on() -> None:
    """A run whose loss follows the area under a cosine, with 5% of gain from annealing, as in Tissue et al. (2024)."""
    rates = cosine()
    loss = power_law(rates.area(SHARES)) * (1 - 0.05 * rates.fallen(SHARES))
    for share in (0.5, 0.8):
        seen = Curve(SHARES, loss).until(share)
        low, high = final_loss(seen, rates).interval()
        assert low < loss[-1] < high
        blind = final_loss(seen, Rates.constant()).quantile(0.5)
        assert abs(np.log(final_loss(seen, rates).quantile(0.5) / loss[-1])) < abs(np.log(blind / loss[-1]))


def test_before_the_decay_of_a_stable_rate_the_interval_holds_its_gain() -> None:
    """Until the decay begins nothing in the curve shows what it will gain: the prior does."""
    share = np.linspace(0, 1, PLACES)
    rates = Rates(np.where(share < 0.8, 1.0, (1 - share) / 0.2))
    seen = Curve(SHARES, power_law(SHARES, plateau=0.9)).until(0.75)
    low = final_loss(seen, rates).interval()[0]
    assert low < (1 - GAINS[GAINS > 0.05].min()) * final_loss(seen, Rates.constant()).interval()[0]


def test_siblings_that_end_alike_narrow_the_forecast_and_move_it_to_where_they_ended() -> None:
    seen = Curve(SHARES, power_law(SHARES)).until(0.25)
    alone = final_loss(seen, Rates.constant())
    factors = (1.3, 1.1, 0.9, 0.7, 1.2)
    siblings = [Curve(SHARES, factor * power_law(SHARES, exponent=0.55)) for factor in factors]
    known = final_loss(seen, Rates.constant(), siblings)
    assert (alone.siblings, known.siblings) == (0, len(factors))
    widths = [np.log(high / low) for low, high in (alone.interval(), known.interval())]
    assert widths[1] < widths[0]
    same = [Curve(SHARES, power_law(SHARES) * np.where(SHARES > 0.25, 0.8, 1.0))] * 8  # all fell by another fifth
    assert final_loss(seen, Rates.constant(), same).quantile(0.5) < alone.quantile(0.5)


def test_probabilities_and_quantiles_are_inverse_to_each_other() -> None:
    end = final_loss(Curve(SHARES, power_law(SHARES)).until(0.3), Rates.constant())
    for probability in (0.01, 0.25, 0.5, 0.9, 0.99):
        assert end.above(end.quantile(probability)) == pytest.approx(1 - probability, abs=1e-6)
    assert np.sum(end.weights) == pytest.approx(1.0)


@given(st.floats(1e-3, 1e3))
def test_the_unit_of_the_loss_does_not_matter(unit: float) -> None:
    seen = Curve(SHARES, power_law(SHARES)).until(0.3)
    end, scaled = (final_loss(Curve(seen.share, seen.loss * factor), Rates.constant()) for factor in (1.0, unit))
    assert scaled.quantile(0.5) == pytest.approx(unit * end.quantile(0.5), rel=1e-6)
    assert scaled.interval() == pytest.approx([unit * bound for bound in end.interval()], rel=1e-6)


def test_many_readings_are_thinned_without_another_answer() -> None:
    """Sixty readings from a hundredth of the run on, and six thousand over the same range."""
    few, many = (np.geomspace(0.01, 0.5, count) for count in (60, 6000))
    assert len(few) < MOST_READINGS < len(many)
    ends = [final_loss(Curve(share, power_law(share)), Rates.constant()) for share in (few, many)]
    assert ends[1].quantile(0.5) == pytest.approx(ends[0].quantile(0.5), rel=0.02)
    assert ends[1].interval() == pytest.approx(ends[0].interval(), rel=0.03)
    assert all(low < 1.0 < high for low, high in (end.interval() for end in ends))


@pytest.mark.parametrize(
    ("count", "share", "words"),
    [(3, 0.15, "3 validations after the warm-up"), (8, 0.02, "2% of the area")],
    ids=["few readings", "early"],
)
def test_not_enough_to_tell_says_what_would_be(count: int, share: float, words: str) -> None:
    shares = np.linspace(share / count, share, count)
    with pytest.raises(ValueError, match=rf"not enough to tell: .*{words}.*; 4 validations and 5% would be"):
        final_loss(Curve(shares, power_law(shares)), Rates.constant())


def test_intervals_hold_what_they_state_on_simulated_runs() -> None:
    """120 runs under a cosine by the law of areas, a quarter to four fifths seen, noise of 0.1 to 1%."""
    rng, rates, inside = np.random.default_rng(0), cosine(), []
    for _ in range(120):
        plateau, exponent, gain = rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.0, 0.12)
        loss = power_law(rates.area(SHARES), plateau, exponent) * (1 - gain * rates.fallen(SHARES))
        noisy = loss * np.exp(10 ** rng.uniform(-3, -2) * rng.normal(size=len(loss)))
        low, high = final_loss(Curve(SHARES, noisy).until(rng.uniform(0.3, 0.8)), rates).interval()
        inside.append(low <= noisy[-1] <= high)
    assert 0.85 <= np.mean(inside) <= 1.0
