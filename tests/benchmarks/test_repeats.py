"""Grids of repeated data, splits of published runs, and the peer's law."""

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.estimate import Points, log_compute
from benchmarks.repeats import KINDS, _known, grid, published
from benchmarks.repeats_peer import both_factors


def test_the_dearest_quarter_of_a_grid_is_held_out() -> None:
    for seed in range(30):
        task = grid(seed)
        assert log_compute(task.train.x).max() <= log_compute(task.rest.x).min()
        assert len(task.train) >= 12
        assert (task.train.x[:, 2] >= task.train.x[:, 1]).all()


def test_more_epochs_hurt_only_where_the_law_says_so() -> None:
    """A crowded place, thousands of epochs against the best of fewer: only under the first law does no loss rise."""
    seen = np.geomspace(1, 1e4, 200)
    for kind in range(len(KINDS)):
        draws = [np.random.default_rng(seed) for seed in range(10)]
        losses = [_known(kind, np.full(200, 300.0), np.ones(200), seen, rng) for rng in draws]
        assert any(loss[-1] > loss.min() * 1.01 for loss in losses) == (kind > 0)


def test_published_runs_are_split_by_compute_repeats_and_at_random() -> None:
    grid = np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e8, 1e10, 3), [1.0, 4.0, 16.0])
    size, unique, epochs = (one.ravel() for one in grid)
    table = pd.DataFrame({"params": size, "unique": unique, "tokens": unique * epochs, "loss": 2 + size**-0.1})
    tasks = list(published(table))
    assert [task.split for task in tasks] == ["larger compute"] * 2 + ["more repeats"] * 2 + ["at random"] * 5
    for task in tasks[2:4]:
        few, many = (part.x[:, 2] / part.x[:, 1] for part in (task.train, task.rest))
        assert few.max() < many.min()
    assert sum(len(task.rest) for task in tasks[4:]) == len(table)


@pytest.mark.slow
def test_the_peer_recovers_its_own_law() -> None:
    """Equations 5 and 6 of Muennighoff et al. with their published worth of repeats and of parameters, 15 and 5."""
    grid = np.meshgrid(np.geomspace(1, 300, 5), np.geomspace(1, 100, 4), [1.0, 4.0, 16.0, 64.0])
    size, unique, epochs = (one.ravel() for one in grid)
    enough = np.minimum(size, unique)  # A = B and one exponent: as many parameters as data
    effective = enough * (1 + 5 * (1 - np.exp(-(size / enough - 1) / 5)))
    data = unique * (1 + 15 * (1 - np.exp(-(epochs - 1) / 15)))
    points = Points(np.column_stack([size, unique, unique * epochs]), 1.5 + effective**-0.35 + data**-0.35)
    np.testing.assert_allclose(both_factors(points)(points.x), np.log(points.y), atol=2e-3)
