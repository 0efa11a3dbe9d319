"""Placebos are measured by name; one that cannot be says why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.recall.pairs import Pairs
from analysis.recall.placebo_panel import placebo_panel
from analysis.recall.placebos import position_features
from analysis.recall.relationship_recall import RecallResult, relationship_recall

GENES = [f"g{number}" for number in range(20)]
KNOWN = Pairs("list", tuple((GENES[number], GENES[number + 1]) for number in range(0, 20, 2)), 0, 0, 0, 0)


def measure(features: np.ndarray) -> list[RecallResult]:
    return relationship_recall(GENES, features, [KNOWN])


def test_what_is_measured_what_is_not_and_what_is_not_known() -> None:
    own = measure(np.random.default_rng(0).normal(size=(20, 4)))
    twins = np.repeat(np.random.default_rng(1).normal(size=(10, 4)), 2, axis=0)
    features = {"twins": lambda: twins, "nothing": lambda: np.zeros((20, 4)), "unknown": unknown}
    panel = placebo_panel(features, measure, own)
    assert [one.placebo for one in panel.recalls] == ["shuffled_pairs", "twins"]
    assert (panel.recalls[0].recall, panel.recalls[1].recall) == (own[0].recall, 0.9)  # 5% of 190 pairs are 9
    assert "zero" in panel.not_measured["nothing"]
    assert panel.not_measured["unknown"] == "all wells have one position"


def unknown() -> np.ndarray:
    return position_features(["A01"] * 20)


def test_a_placebo_has_an_interval() -> None:
    without = replace(measure(np.eye(20))[0], recall_low=None)
    with pytest.raises(ValueError, match="shuffled_pairs: a placebo is measured with an interval"):
        placebo_panel({}, measure, [without])
