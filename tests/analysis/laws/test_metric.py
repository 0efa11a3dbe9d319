"""Metrics: the kind is guessed from name, range and trend."""

import numpy as np
import pytest

from analysis.laws.metric import guess_metric


@pytest.mark.parametrize(
    ("name", "y", "kind", "bound"),
    [
        ("val_loss", [3.0, 2.5, 2.4], "loss", 1),
        ("Top-1 accuracy", [30.0, 55.0, 60.0], "share", 100),
        ("recall", [0.2, 0.3, 0.35], "share", 1),
        ("metric", [0.2, 0.3, 0.35], "share", 1),
        ("metric", [9.0, 7.0, 6.5], "loss", 1),
        ("elo", [900.0, 1000.0, 1100.0], "score", 1),
        ("log_likelihood", [-3.0, -2.0, -1.8], "score", 1),
    ],
)
def test_a_metric_s_kind_is_guessed_from_name_range_and_trend(name, y, kind, bound):
    found = guess_metric(name, np.array([1.0, 10, 100]), np.array(y), [0, 0, 0])
    assert (found.kind, found.bound) == (kind, bound)
