"""Measure placebos as a model's map is measured; one that cannot be measured says why, and stops nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analysis.arrays import Floats
from analysis.recall.placebos import PlaceboRecall
from analysis.recall.relationship_recall import RecallResult

Measure = Callable[[Floats], Sequence[RecallResult]]
"""From features (W, K), before correction, to the recall of each source, with intervals."""


@dataclass(frozen=True)
class PlaceboPanel:
    """What placebos recall of each source, and why others are not measured."""

    recalls: tuple[PlaceboRecall, ...]
    not_measured: Mapping[str, str]


def placebo_panel(
    features: Mapping[str, Callable[[], Floats]], measure: Measure, shuffled: Sequence[RecallResult]
) -> PlaceboPanel:
    """Measure placebos by name.

    Args:
        features: gives (W, K) of each placebo; ValueError says why there are none.
        measure: corrects, aggregates and recalls.
        shuffled: the recall of the model's own map by shuffled pairs.
    """
    found, failed = {"shuffled_pairs": shuffled}, dict[str, str]()
    for name, values in features.items():
        try:  # such as positions of controls that are all alike, which no correction can be fitted to
            found[name] = measure(values())
        except ValueError as error:
            failed[name] = str(error)
    recalls = [_recall(name, result) for name, results in found.items() for result in results]
    return PlaceboPanel(tuple(recalls), failed)


def _recall(name: str, result: RecallResult) -> PlaceboRecall:
    low, high = result.recall_low, result.recall_high
    if low is None or high is None:
        raise ValueError(f"{name}: a placebo is measured with an interval")
    return PlaceboRecall(name, result.source, result.recall, low, high, result.chance)
