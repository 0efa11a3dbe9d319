"""Estimation of one law: published fits of the joint law are reproduced."""

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
