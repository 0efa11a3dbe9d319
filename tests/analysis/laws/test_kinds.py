"""The kind of each group's metric, from name, range and trend. Covers `metric` too."""

import numpy as np
import pytest

from analysis.laws.kinds import GroupValues, guess_metrics
from analysis.laws.metric import Metric


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
    (found,) = guesses(name, all=y)
    assert (found.metric.kind, found.metric.bound) == (kind, bound)


def guesses(name, **groups):
    """Each group's guess, of values at growing compute."""
    return guess_metrics(
        name, [GroupValues(label, np.arange(1.0, len(y) + 1), np.array(y), np.array(y)) for label, y in groups.items()]
    )


def test_one_value_above_1_does_not_make_a_group_per_cent():
    (found,) = guesses("accuracy", all=[0.30, 0.36, 0.41, 0.45, 1.06, 0.50, 0.55])
    assert (found.metric.kind, found.metric.bound, found.note) == ("share", 1, None)


def test_fractions_and_per_cent_in_one_column_are_told_apart_by_group():
    found = guesses("accuracy", a=[0.3, 0.4, 0.5, 0.55], b=[0.8, 4.0, 35.0, 50.0, 61.0], c=[0.1, 0.2, 0.3, 0.4])
    assert [guess.metric.bound for guess in found] == [1, 100, 1]
    assert [guess.metric.kind for guess in found] == ["share"] * 3


@pytest.mark.parametrize(
    ("values", "kind"), [([0.4, 0.8, 1.2, 1.5, 1.72], "score"), ([1.72, 1.3, 1.1, 0.9, 0.8], "loss")]
)
def test_a_group_that_is_no_share_is_fitted_as_what_it_is_and_said(values, kind):
    """A relative speed-up up to 1.72 in a column of accuracies: the others stay fractions."""
    shares, found = guesses("accuracy", a=[0.3, 0.4, 0.5, 0.55, 0.6], b=values)
    assert (shares.metric.kind, shares.metric.bound, shares.note) == ("share", 1, None)
    assert found.metric.kind == kind
    assert kind == "loss" or "named as a share, but its values of 0.4 to 1.72 fit none" in found.note


def test_the_first_steps_of_a_curve_in_per_cent_are_per_cent():
    """Below 1 per cent for most of the curve: the other groups of the column say so."""
    found = guesses("top1", a=[1.0, 5.0, 20.0, 40.0, 60.0], b=[0.1, 0.2, 0.4, 1.3, 2.0])
    assert [guess.metric.bound for guess in found] == [100, 100]


def test_a_column_of_values_takes_its_kind_from_the_group_s_label():
    found = guesses("value", recall=[0.2, 0.3, 0.35, 0.4, 0.42], val_loss=[0.9, 0.8, 0.7, 0.6, 0.55])
    assert [guess.metric.kind for guess in found] == ["share", "loss"]


def test_spaces_are_described_as_they_are():
    assert Metric("share").describe_space("log") == "the logarithm of its distance from the bound"
    assert Metric("score").describe_space("log") == "its logarithm"
    assert Metric("score").describe_space("linear") == "it is"
    assert Metric("share", bound=100).describe == "share: rises, bounded by 100 (per cent)"
