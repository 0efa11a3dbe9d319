"""Best epochs and splits of compute with limited data, beside brute force on a law that is known."""

import numpy as np
import pytest

from analysis.design.repeats import as_json, best_epochs, in_words, limited_split, shown_places
from analysis.fitting import averages
from analysis.fitting.estimate import Points
from analysis.laws.metric import Metric

LOSS = Metric("loss")
HALF, STEEP, KAPPA, HEIGHT = 40.0, 2.0, 0.6, 0.3


def known(size, unique, seen, height=HEIGHT):
    """Size in units of 1e6, data in units of 1e4."""
    size, unique, seen = size / 1e6, unique / 1e4, seen / 1e4
    repeats = np.maximum(seen / unique - 1, 1e-12)
    lost = height * (size / unique) ** KAPPA / (1 + (repeats / HALF) ** -STEEP)
    return 0.5 + 0.8 * size**-0.3 + 1.2 * seen**-0.35 + lost


def study(height=HEIGHT, noise=0.002):
    grid = np.meshgrid(np.geomspace(1e6, 1e8, 4), np.geomspace(1e4, 1e6, 3), 2.0 ** np.arange(8))
    size, unique, epochs = (one.ravel() for one in grid)
    y = known(size, unique, unique * epochs, height)
    y = y * np.exp(noise * np.random.default_rng(0).normal(size=len(y)))
    points = Points(np.column_stack([size, unique, unique * epochs]), y)
    return averages.fit(points, LOSS), points


@pytest.fixture(scope="module")
def overfitted():
    return study()


def test_best_epochs_are_those_of_the_known_law(overfitted):
    law, points = overfitted
    assert law.members[0].law.name == "overfitting"
    for one in best_epochs(law, points, [(1e8, 1e4), (1e7, 1e5)]):
        epochs = np.geomspace(1, one.longest, 2000)
        curve = known(one.size, one.unique, one.unique * epochs)
        best = epochs[np.argmin(curve)]
        assert one.low * 0.95 <= best <= one.high * 1.05
        assert one.best == pytest.approx(best, rel=0.15)
        assert one.enough == pytest.approx(epochs[np.argmax(curve <= 1.01 * curve.min())], rel=0.15)
        assert one.y == pytest.approx(curve.min(), rel=0.01)
        assert one.once == pytest.approx(curve[0], rel=0.01)
        assert one.hurts > 0.9
        assert "and more hurt" in in_words(one)


def test_repeats_that_do_not_hurt_are_not_said_to():
    law, points = study(height=0.0)
    for one in best_epochs(law, points, shown_places(points)):
        assert one.hurts < 0.1
        assert in_words(one).startswith("more epochs do not hurt")


def test_compute_is_split_as_by_brute_force_where_data_are_limited(overfitted):
    law, points = overfitted
    for one in limited_split(law, points, 1e5, [1e14, 1e15]):
        sizes = np.geomspace(1e5, 1e9, 4000)
        seen = one.compute / (6 * sizes)
        losses = known(sizes, np.minimum(1e5, seen), seen)
        assert known(one.size, 1e5, one.epochs * 1e5) <= losses.min() * 1.005
        assert one.size_low <= sizes[np.argmin(losses)] * 1.05
        assert one.size_high >= sizes[np.argmin(losses)] * 0.95
        assert 6 * one.size * one.epochs * one.unique == pytest.approx(one.compute)


def test_epochs_are_read_no_farther_than_ten_times_the_compute_of_the_runs(overfitted):
    law, points = overfitted
    (one,) = best_epochs(law, points, [(1e8, 1e7)])
    assert one.longest == pytest.approx(10 * 1e8 * 1.28e8 / (1e8 * 1e7))


def test_runs_that_repeat_nothing_say_nothing_of_epochs():
    points = study()[1]
    once = points.subset(points.x[:, 2] == points.x[:, 1])
    assert as_json(averages.fit(once, LOSS, "data_constrained"), once, None, [])["epochs"] == []


def test_a_law_without_repeats_is_refused():
    points = Points(np.geomspace(1, 1e3, 8)[:, None], 1 + np.geomspace(1, 1e3, 8) ** -0.3)
    with pytest.raises(ValueError, match=r"this one has 1 input"):
        best_epochs(averages.fit(points, LOSS), points, [(1, 1)])


def test_no_split_without_an_amount_of_data(overfitted):
    found = as_json(*overfitted, None, [1e15])
    assert found["splits"] == []
    assert len(found["epochs"]) == 3
