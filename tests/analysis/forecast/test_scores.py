"""Scores of forecasts, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.forecast.scores import Prediction, score, summary


def prediction(
    metric: str, value: float | None, measured: float | None, half: float = 0.1, note: str = ""
) -> Prediction:
    low, high = (None, None) if value is None else (value - half, value + half)
    return Prediction(1, "2026-01-01T00:00:00+00:00", "a", metric, 0.9, value, low, high, measured, note)


def test_errors_inside_and_running_coverage_by_metric() -> None:
    found = score([
        prediction("loss", 0.5, 0.55),
        prediction("recall", 0.3, 0.45),
        prediction("loss", 0.5, 0.65),
        prediction("loss", 0.5, None),
        prediction("loss", None, 0.4, note="not enough to tell"),
        prediction("loss", 0.5, 0.42),
    ])  # fmt: skip
    assert [one.error for one in found] == [pytest.approx(0.05), pytest.approx(0.15), pytest.approx(0.15), None, None,
                                            pytest.approx(-0.08)]  # fmt: skip
    assert [one.is_inside for one in found] == [True, False, False, None, None, True]
    assert [one.coverage for one in found] == [1.0, 0.0, 0.5, 0.5, 0.5, pytest.approx(2 / 3)]
    assert summary(found) == [
        "loss: 2 of 3 inside their 90% interval, mean absolute error 0.09333",
        "recall: 0 of 1 inside their 90% interval, mean absolute error 0.15",
        "1 predictions are not scored yet",
        "1 predictions could not be told",
    ]


def test_nothing_scored_has_no_coverage() -> None:
    assert score([prediction("loss", 0.5, None)])[0].coverage is None
    assert score([]) == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=30))
def test_the_last_running_coverage_is_that_of_all(outcomes: list[tuple[str, bool]]) -> None:
    found = score(prediction(metric, 0.5, 0.55 if hit else 0.7) for metric, hit in outcomes)
    for metric in {metric for metric, _ in outcomes}:
        hits = [hit for name, hit in outcomes if name == metric]
        last = [one for one in found if one.prediction.metric == metric][-1]
        assert last.coverage == pytest.approx(sum(hits) / len(hits))
