"""Simulated grids of shares: what is held out, and that the default average follows a known law."""

import numpy as np
import pytest

from analysis.fitting.estimate import Points
from benchmarks.shares import PEERS, Task, grid, judge, rows


def test_the_three_dearest_points_of_a_grid_are_held_out() -> None:
    for seed in range(40):
        task = grid(seed)
        assert 3 <= len(task.train) <= 15
        assert len(task.rest) == 3
        assert task.train.x.max() <= task.rest.x.min()
        assert (np.concatenate([task.train.y, task.rest.y]) < 1).all()


def test_a_known_law_is_scored_as_well_predicted_and_covered() -> None:
    x = np.geomspace(1, 1e4, 15)[:, None]
    y = 1 - 0.8 * x[:, 0] ** -0.1 * np.exp(1e-3 * np.random.default_rng(0).normal(size=15))
    outcome = judge(Task(Points(x[:12], y[:12]), Points(x[12:], y[12:])))
    assert set(outcome.rmse) == {"ours", *PEERS}
    assert outcome.rmse["ours"] < 0.005
    assert outcome.covered == 1.0
    assert outcome.score == pytest.approx(outcome.width)  # nothing lies outside
    found = rows("known", [outcome], {"m4": 1.0})
    assert [row["met"] for row in found if row["peer_name"] == "m4"] == [True]
