"""Estimation of one law: published fits of the joint law are reproduced."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.estimate import Points, Settings, fit_law, problem_of
from analysis.fitting.least_squares import polish, solve
from analysis.laws.beliefs import Belief
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Coordinates, Metric

LOSS = Metric("loss")


def chinchilla(real_data):
    table = pd.read_csv(real_data / "scaling_laws" / "chinchilla_epoch.csv").sort_values("loss").iloc[:-5]
    size, flop = table["Model Size"].to_numpy(), table["Training FLOP"].to_numpy()
    return Points(np.column_stack([size, flop / (6 * size)]), table["loss"].to_numpy())


def test_every_start_reaches_the_minimum_that_besiroglu_et_al_found(real_data):
    points, law = chinchilla(real_data), named_law("joint")
    coordinates = Coordinates.of(LOSS, "log", points.x, points.y)
    problem = problem_of(law, points, coordinates, Settings(Belief(strength=0.0), huber=1e-3))
    starts = law.starts(problem.inputs[0], problem.targets[0])
    objective = polish(problem, solve(problem, starts).theta).objective / 2  # ours is twice the usual Huber loss
    assert len(objective) == 32
    assert objective.max() <= 1.018274019e-3


def test_the_joint_law_of_chinchilla_is_that_of_besiroglu_et_al(real_data):
    from analysis.fitting.parameters import natural

    fitted = fit_law(named_law("chinchilla"), chinchilla(real_data), LOSS, Settings(huber=1e-3))
    found = {name: float(value[0]) for name, value in natural("joint", fitted.theta[None], fitted.coordinates).items()}
    expected = {"A": 477.83, "B": 2143.42, "E": 1.8172, "alpha": 0.34731, "beta": 0.36717}
    assert found == {name: pytest.approx(value, rel=1e-4) for name, value in expected.items()}


@pytest.mark.parametrize("name", ["power_law", "logit_linear", "power_offset"])
def test_the_response_of_a_fit_is_how_a_refit_moves(name) -> None:
    """A point is moved a little and the law fitted again; in the space of an average, also for a law in logit."""
    x, metric = np.geomspace(1, 1e3, 9)[::-1], Metric("share")
    noise = 0.02 * np.random.default_rng(0).normal(size=9)
    law, place, step = named_law(name), np.array([[1e4]]), 1e-4

    def fit(z: np.ndarray):
        points = Points(x[:, None], 1 - np.exp(z))
        return replace(fit_law(law, points, metric), space="log"), points

    z = np.log(0.1 + 0.7 * x**-0.3) + noise
    fitted, points = fit(z)
    for row in (0, 4, 8):
        moved = fit(z + step * np.eye(9)[row])[0].log_or_linear(place) - fitted.log_or_linear(place)
        assert fitted.response(points, place)[0, row] == pytest.approx(moved[0] / step, abs=0.03)
