"""Which points one law is asked of. Covers `points`."""

from __future__ import annotations

import pandas as pd
import pytest

from harness.recipe.schema import Fit
from harness.report.points import for_laws, one_family, trends


def test_a_law_is_asked_of_annealed_runs_unless_the_recipe_wants_all() -> None:
    table = pd.DataFrame({
        "kind": "mae_vit", "trained": [True] * 8 + [False], "source": ["a"] * 4 + ["b"] * 4 + ["a"],
        "compute": [1e18, 1e19, 1e20, 1e21] * 2 + [float("nan")], "recall": [0.1, 0.2, 0.3, 0.9] * 2 + [0.1],
        "annealed": pd.array([True, None, True, False, True, False, True, False, None], dtype="boolean"),
    })  # fmt: skip
    assert for_laws(table, Fit())["recall"].tolist() == [0.1, 0.2, 0.3, 0.1, 0.3, 0.1]
    (fit,) = trends(table, Fit(), "touvron")  # source b has two computes left
    assert (fit.source, fit.runs, fit.left_out, fit.unknown) == ("a", 3, 1, 1)
    assert fit.law.slope == pytest.approx(0.1)
    every = trends(table, Fit(include_unannealed=True), "touvron")
    assert [(fit.source, fit.runs, fit.left_out) for fit in every] == [("a", 4, 0), ("b", 4, 0)]


def test_a_law_is_asked_of_one_kind_of_model_and_keeps_its_baselines() -> None:
    rows = [("mae_vit", True)] * 3 + [("densenet", True)] * 2 + [("mae_vit", False), ("", False)]
    found = pd.DataFrame(rows, columns=["kind", "trained"])
    kept = one_family(found)
    assert kept["kind"].tolist() == ["mae_vit"] * 4 + [""]
    assert one_family(found[~found["trained"]]).equals(found[~found["trained"]])
