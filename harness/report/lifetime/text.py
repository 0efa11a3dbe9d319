"""Lifetime frontiers as text for a terminal and the plan, and as JSON for scripts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from analysis.figures.text_table import text_table
from harness.plan.cost import CROPS_PER_WELL
from harness.plan.table import short
from harness.recipe.schema import Recipe
from harness.report.lifetime.frontiers import HOURS, InUnit, Lifetime, lifetimes, lives

if TYPE_CHECKING:
    from analysis.design.life import Band, ModelTurn

SCREENS = 10  # of the plan's summary


def text(found: Sequence[Lifetime], recipe: Recipe) -> str:
    """The frontiers for a terminal."""
    head = (
        f"best size over a life (size: cost per crop, {recipe.fit.convention}; {CROPS_PER_WELL} crops a well; "
        "repeats of data count as new):"
    )
    return "\n".join([head, *(line for lifetime in found for line in _lines(lifetime, recipe))])


def _lines(lifetime: Lifetime, recipe: Recipe) -> Iterator[str]:
    if lifetime.lacking:
        yield f"{lifetime.name}: {lifetime.lacking}"
        return
    sizes = ", ".join(f"{name} {size:.3g}" for name, size in lifetime.models)
    yield f"{lifetime.name}: {lifetime.goal} (sizes of the study: {sizes})"
    for part in lifetime.units:
        yield text_table([_row(lifetime, part, index, recipe) for index in range(len(lifetime.wells))])
        if not lifetime.budget:
            yield f"  of the study's models, by {part.unit}: {models(part.turns)}"
    if lifetime.doubt:
        yield f"  but {lifetime.doubt}"


def _row(lifetime: Lifetime, part: InUnit, index: int, recipe: Recipe) -> dict[str, str]:
    life, for_budget = part.life, lifetime.budget
    row = {"wells": f"{lifetime.wells[index]:,.0f}", **_banded("best size", life.size, index)}
    row["crops"] = short(life.crops.value[index])
    row |= {f"train, {part.unit}": f"{life.train[index]:,.4g}", "embed": f"{life.embed[index]:,.4g}"}
    row |= _banded("metric", life.metric, index) if for_budget else _banded("total", life.total, index)
    price = recipe.hardware.gpu_type.price_per_hour
    return row | ({"cost": f"{life.total.value[index] * price:,.0f}"} if part.unit == HOURS else {})


def _banded(name: str, band: Band, index: int) -> dict[str, str]:
    value, low, high = (f"{part[index]:.4g}" for part in (band.value, band.low, band.high))
    return {name: value, f"{name}, 90%": f"{low} – {high}"}


def models(turns: Sequence[ModelTurn]) -> str:
    """Which model is the cheapest, in words."""
    if not turns:
        return "none reaches it"
    first, *later = turns
    return "; ".join([first.model, *(f"from {_place(turn)} wells on {turn.model}" for turn in later)])


def _place(turn: ModelTurn) -> str:
    return f"{_wells(turn.crops)} [{_wells(turn.low)}, {_wells(turn.high)}]"


def _wells(count: float) -> str:
    return short(count) if math.isfinite(count) else "unlimited"


def summary(recipe: Recipe) -> list[str]:
    """A line per frontier for the plan: the best size without embedding and after ten screens; or why there is none."""
    try:
        found = lifetimes(recipe, [lives(SCREENS, None, recipe)[index] for index in (0, -1)])
    except ValueError as error:
        return [f"best size over a life: {error}"]
    lines = [f"  {lifetime.name}: {_short(lifetime)}" for lifetime in found]
    return ["best size over a life (the verb frontier has more):", *lines]


def _short(lifetime: Lifetime) -> str:
    if lifetime.lacking:
        return lifetime.lacking
    part = lifetime.units[-1]
    size = part.life.size
    return (
        f"{size.value[0]:.3g} a crop if nothing is embedded, "
        f"{size.value[1]:.3g} [{size.low[1]:.3g}, {size.high[1]:.3g}] for {lifetime.wells[1]:,.0f} wells, "
        f"by {part.unit}; of the study's models {models(part.turns)}"
    )


def as_json(found: Sequence[Lifetime], recipe: Recipe) -> str:
    """The frontiers for scripts; null where nothing reaches a metric."""
    price = recipe.hardware.gpu_type.price_per_hour
    values = {
        "convention": recipe.fit.convention, "crops_per_well": CROPS_PER_WELL, "price_per_hour": price,
        "frontiers": [_object(lifetime) for lifetime in found],
    }  # fmt: skip
    return json.dumps(values, indent=1)


def _object(lifetime: Lifetime) -> dict[str, Any]:
    units = {part.unit: _in_unit(part) for part in lifetime.units}
    return {
        "metric": lifetime.name, "wells": list(lifetime.wells), "goal": lifetime.goal,
        "models": dict(lifetime.models), "units": units, "lacking": lifetime.lacking, "doubt": lifetime.doubt,
    }  # fmt: skip


def _in_unit(part: InUnit) -> dict[str, Any]:
    life = part.life
    columns = {"size": life.size.value, "size_low": life.size.low, "size_high": life.size.high,
               "crops": life.crops.value, "train": life.train, "embed": life.embed, "total": life.total.value,
               "total_low": life.total.low, "total_high": life.total.high, "metric": life.metric.value}  # fmt: skip
    turns = [{"model": t.model, "from_wells": t.crops, "low": t.low, "high": _finite(t.high)} for t in part.turns]
    return {name: [_finite(float(value)) for value in values] for name, values in columns.items()} | {"models": turns}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
