"""Figure 9 of the supplement: every CellProfiler feature's R² under one model against another, by category."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from analysis.cellprofiler.prediction import CATEGORIES, FeaturePrediction
from analysis.figures.style import COLOURS, GREY, OTHER_COLOURS, show_literally, styled

CATEGORY_COLOURS = dict(zip(CATEGORIES, (*COLOURS.values(), *OTHER_COLOURS), strict=False))


def predicted_features(
    first: Sequence[FeaturePrediction],
    second: Sequence[FeaturePrediction],
    names: tuple[str, str] = ("first", "second"),
) -> Figure:
    """A point for every feature that both models predicted.

    Raises:
        ValueError: they have no feature in common.
    """
    other = {prediction.feature: prediction for prediction in second}
    pairs = [(prediction, other[prediction.feature]) for prediction in first if prediction.feature in other]
    if not pairs:
        raise ValueError("the two sets of predictions have no feature in common")
    with styled():
        figure, axes = plt.subplots(figsize=(4.2, 4.0), layout="constrained")
        axes.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
        for category in sorted({prediction.category for prediction, _ in pairs}):
            inside = [(a.r2, b.r2) for a, b in pairs if a.category == category]
            colour = CATEGORY_COLOURS.get(category, GREY)
            across, up = ([pair[side] for pair in inside] for side in (0, 1))
            axes.scatter(across, up, s=9, color=colour, linewidth=0, alpha=0.7, label=category)
        axes.set_aspect("equal")
        axes.set_xlabel(f"R², {names[0]}", parse_math=False)
        axes.set_ylabel(f"R², {names[1]}", parse_math=False)
        show_literally(figure.legend(loc="outside right upper", frameon=False))
    return figure
