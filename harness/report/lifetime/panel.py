"""Lifetime frontiers as the page shows them: best size against wells embedded, by GPU hours where there are GPUs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.plan.cost import embedded_wells
from harness.recipe.schema import Recipe
from harness.report.lifetime.frontiers import InUnit, Lifetime, lifetimes
from harness.report.lifetime.text import models

if TYPE_CHECKING:
    from analysis.page.study import LifePanel

STEPS = 26  # of wells on the line, from a hundredth of a screen to a thousand screens
SHOWN = (5, 10, 15, 20)  # of the steps: a tenth of a screen to a hundred, in the table
DECADES = (-2.0, 3.0)


def panels(recipe: Recipe) -> list[LifePanel]:
    """A panel for each metric and patch size; none where the wells of a screen are not known, or nothing is trained."""
    import numpy as np

    wells = embedded_wells(recipe)
    if not wells:
        return []
    lives = [0.0, *(wells * np.logspace(*DECADES, STEPS)).tolist()]
    return [_panel(lifetime, recipe) for lifetime in lifetimes(recipe, lives)]


def _panel(lifetime: Lifetime, recipe: Recipe) -> LifePanel:
    from analysis.page.study import LifePanel

    if lifetime.lacking:
        return LifePanel(lifetime.name, f"{lifetime.lacking}.")
    part = lifetime.units[-1]
    doubt = f" But {lifetime.doubt}." if lifetime.doubt else ""
    answer = f"{lifetime.goal}. Of the study's models the cheapest, by {part.unit}: {models(part.turns)}.{doubt}"
    finite = [index for index in (0, *(1 + step for step in SHOWN)) if math.isfinite(part.life.size.value[index])]
    return LifePanel(
        lifetime.name, answer, part.unit, recipe.fit.convention, _line(lifetime, part), lifetime.models,
        [_place(lifetime, part, index) for index in finite],
    )  # fmt: skip


def _line(lifetime: Lifetime, part: InUnit) -> dict[str, list[float]]:
    """Where the size and its interval are finite; the life without embedding has no place on a logarithmic axis."""
    import numpy as np

    size = part.life.size
    columns = {"x": np.array(lifetime.wells), "y": size.value, "low": size.low, "high": size.high}
    drawn = np.isfinite(list(columns.values())).all(axis=0) & (columns["x"] > 0)
    return {name: values[drawn].tolist() for name, values in columns.items()}


def _place(lifetime: Lifetime, part: InUnit, index: int) -> dict[str, float]:
    life = part.life
    columns = {
        "size": life.size.value, "size_low": life.size.low, "size_high": life.size.high, "crops": life.crops.value,
        "train": life.train, "embed": life.embed, "total": life.total.value,
    }  # fmt: skip
    return {"wells": lifetime.wells[index]} | {name: float(values[index]) for name, values in columns.items()}
