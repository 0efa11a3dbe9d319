"""Simulated grids of model size and data: what is held out, and the law that is known."""

import numpy as np

from analysis.fitting.estimate import log_compute
from benchmarks.joint import _known, grid


def test_the_dearest_quarter_of_a_grid_is_held_out() -> None:
    for seed in range(30):
        task = grid(seed)
        assert log_compute(task.train.x).max() <= log_compute(task.rest.x).min()
        assert len(task.train) >= 9
        assert 0.15 < len(task.rest) / (len(task.train) + len(task.rest)) < 0.45


def test_only_the_additive_law_has_terms_that_add() -> None:
    """Its second difference over size and data is 0; those of the other two laws are not."""
    size, data = np.array([1.0, 100.0, 1.0, 100.0]), np.array([1.0, 1.0, 100.0, 100.0])
    for kind, adds in ((0, True), (1, False), (2, False)):
        loss = _known(kind, size, data, np.random.default_rng(1))
        assert (abs(loss[0] - loss[1] - loss[2] + loss[3]) < 1e-12) == adds
