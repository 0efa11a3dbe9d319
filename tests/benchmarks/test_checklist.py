"""Items of the checklist judged by misses: counts, precision, and areas by hand."""

import numpy as np
import pytest

from analysis.fitting.estimate import Points
from benchmarks.checklist import SHARE, Case, Judged, area, by_check, by_kind, by_quantity, judge


def judged(kind: str, covered: float, fired: dict[str, str], noise: float, dataset: str = "bird") -> Judged:
    points = Points(np.ones((1, 1)), np.ones(1))
    return Judged(
        Case(kind, dataset, points, points, SHARE, "auto"), covered, 2.0, 1.0, fired, {"noise": noise, "n": 1.0}
    )


FOUND = [
    judged("a", 0.5, {"outliers": "note", "convergence": "warn"}, 3.0),
    judged("a", 1.0, {"outliers": "note"}, 1.0),
    judged("a", 1.0, {}, 2.0),
    judged("b", 0.0, {}, 9.0, "other"),
    judged("b", 0.9, {"outliers": "note"}, 10.0, "other"),
]


def test_an_item_s_precision_is_counted_on_misses_and_others() -> None:
    rows = {row["name"]: row for row in by_check(FOUND)}
    assert set(rows) == {
        "convergence (warn): on 1 of 2 misses, 0 of 3 others", "outliers (note): on 1 of 2 misses, 2 of 3 others",
    }  # fmt: skip
    assert [row["ours"] for row in rows.values()] == [1.0, pytest.approx(1 / 3)]
    assert all(row["peer"] == 0.4 for row in rows.values())


def test_a_warning_that_fires_on_hits_is_marked_once_it_fired_often_enough() -> None:
    for count, met in ((5, True), (20, False)):
        often = [judged("a", 1.0, {"repeats": "warn"}, 1.0) for _ in range(count)]
        assert next(by_check([*often, FOUND[3]]))["met"] is met


def test_areas_are_means_over_kinds_and_a_quantity_is_judged_on_other_sets() -> None:
    """Kind a: the miss is the largest of three (1); kind b: the smaller of two (0)."""
    assert area(FOUND, "noise") == 0.5
    assert area(FOUND[:3], "noise") == 1.0
    assert [row["ours"] for row in by_quantity(FOUND)] == [1.0, 0.0]


def test_coverage_is_counted_for_each_curve() -> None:
    missed, score = list(by_kind(FOUND[:3]))
    assert missed["ours"] == pytest.approx(1 / 3)
    assert (score["ours"], score["peer"], score["met"]) == (2.0, 1.0, True)


def test_a_curve_off_its_law_is_a_miss() -> None:
    x = np.geomspace(1, 1e4, 15)[:, None]
    y = 1 - 0.8 * x[:, 0] ** -0.1
    y[12:] = 0.2
    found = judge(Case("shares", "bird", Points(x[:12], y[:12]), Points(x[12:], y[12:]), SHARE, "auto"))
    assert (found.covered, found.missed) == (0.0, True)
    assert found.score > found.width
    assert found.quantities["points"] == 12
