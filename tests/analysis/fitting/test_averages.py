"""The averages `auto` and `learning_curve`: beliefs and extrapolation."""

import numpy as np
import pandas as pd
import pytest

from analysis.fitting import averages
from analysis.fitting.estimate import Points
from analysis.laws.metric import Metric

LOSS = Metric("loss")


@pytest.mark.slow
def test_learning_curves_are_extrapolated_better_than_by_m4(real_data):
    folder = real_data / "scaling_laws"
    table = pd.read_csv(folder / "benchmark.vision.csv")
    peers = pd.read_csv(folder / "baselines_92.csv").set_index(["task", "model"])["M4"]
    ours, m4 = [], []
    for (task, model), rows in table.groupby(["Task", "Model"], sort=False):
        if not task.startswith(("inet", "cal")):  # half of the curves: the benchmark has all of them
            continue
        train, rest = (rows[rows["Training"] == part] for part in (1, 0))
        law = averages.fit(
            Points(train[["Seen Examples"]].to_numpy(), train["Loss"].to_numpy()), LOSS, "learning_curve"
        )
        error = np.log(law.predict(rest[["Seen Examples"]].to_numpy()) / rest["Loss"].to_numpy())
        ours.append(np.sqrt(np.mean(error**2)))
        m4.append(peers[task, model])
    assert np.mean(ours) < 0.6 * np.mean(m4)
    assert max(ours) < 0.10


def test_the_belief_depends_on_what_x_counts() -> None:
    assert averages.average_for("Seen Examples") == averages.average_for("train_tokens") == "learning_curve"
    assert averages.average_for("FLOPs") == averages.average_for("params") == averages.average_for("compute") == "auto"


@pytest.mark.parametrize("exponent", [0.05, 0.15, 0.35])
@pytest.mark.parametrize("plateau", [0.0, 1.7])
def test_a_clean_law_of_compute_is_predicted_a_decade_further(exponent: float, plateau: float) -> None:
    """Exponents as published for compute and parameters: the belief of learning curves (0.5) must not bias them."""
    x = np.logspace(17, 20.5, 10)[:, None]
    noise = np.exp(np.random.default_rng(0).normal(0, 0.002, 10))
    y = (plateau + 2 * (x[:, 0] / 1e17) ** -exponent) * noise
    found = averages.fit(Points(x, y), LOSS).predict(np.array([[3e21]]))
    assert found == pytest.approx([plateau + 2 * 3e4**-exponent], rel=0.05)
