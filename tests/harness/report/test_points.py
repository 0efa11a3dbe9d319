"""Which points one law is asked of."""

from __future__ import annotations

import pandas as pd

from harness.report.points import one_family


def test_a_law_is_asked_of_one_kind_of_model_and_keeps_its_baselines() -> None:
    rows = [("mae_vit", True)] * 3 + [("densenet", True)] * 2 + [("mae_vit", False), ("", False)]
    found = pd.DataFrame(rows, columns=["kind", "trained"])
    kept = one_family(found)
    assert kept["kind"].tolist() == ["mae_vit"] * 4 + [""]
    assert one_family(found[~found["trained"]]).equals(found[~found["trained"]])
