"""The best model size over its life: trained once, and run on every well of every screen that it will embed.

A joint law of cost per crop and crops seen says what each size needs in training for the same metric (`frontier`). The
costs of a crop, in FLOPs and in GPU hours as the plan has them, are those of the study's models of one patch size: a
masked autoencoder is trained on visible tokens and a decoder but embeds all tokens without one, so the ratio of the two
costs differs between models. Money is GPU hours times hardware.price_per_hour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.compute.flops import FLOPS_PER_MAC, dense_forward, flops_per_crop, mae_train
from analysis.figures.text_table import counted
from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.models.architecture import cost_of
from harness.plan.cost import CROPS_PER_WELL, HOUR, embed_seconds, embedded_wells, plan_cell
from harness.recipe.axes import axis_names
from harness.recipe.schema import Recipe
from harness.report.facets import by_facet
from harness.report.frontier import FEWEST_RUNS, FEWEST_VALUES, facets, metrics, run_ends, runs_of
from harness.report.points import for_laws, points

if TYPE_CHECKING:
    import pandas as pd

    from analysis.design.life import Life, LifeLaw, ModelTurn
    from analysis.design.lifetime import Costs
    from analysis.laws.metric import Metric

FLOPS, HOURS = "FLOPs", "GPU hours"
MORE = {
    "alpha": "runs of models farther apart in cost, at the same crops seen",
    "beta": "runs of the same models farther apart in crops seen",
}
SURE = 0.9  # of resampled laws must reach a metric for its frontier to be believed


@dataclass(frozen=True)
class Goal:
    """What the best size is for: a budget in GPU hours; or else metrics, by default those of the best run."""

    recall: float | None = None  # mean over sources
    loss: float | None = None  # validation loss, of every patch size
    budget: float | None = None  # GPU hours of training and embedding together


@dataclass(frozen=True)
class InUnit:
    """The frontier in one unit of cost, and which of the study's models is the cheapest; turns count wells."""

    unit: str
    life: Life
    turns: tuple[ModelTurn, ...]


@dataclass(frozen=True)
class Lifetime:
    """The frontier of one metric among models of one patch size; or why there is none."""

    name: str
    wells: tuple[float, ...]  # embedded over the life
    goal: str = ""
    units: tuple[InUnit, ...] = ()
    models: tuple[tuple[str, float], ...] = ()  # of the study with their sizes: cost per crop, rising
    budget: bool = False  # whether the goal is the best metric for a budget
    lacking: str = ""  # what is not enough to tell, and what would be
    doubt: str = ""


def lifetimes(recipe: Recipe, wells: Sequence[float], goal: Goal | None = None) -> list[Lifetime]:
    """The lifetime frontiers of mean recall and of each patch size's loss, from the runs that are finished.

    Args:
        recipe: the study.
        wells: numbers of wells embedded over a model's life.
        goal: what the best size is for.

    Raises:
        ValueError: a budget in GPU hours where the recipe has no GPUs.
    """
    goal = goal or Goal()
    if goal.budget is not None and not recipe.launch.gpus_per_node:
        raise ValueError("a budget is in GPU hours, and this recipe has no GPUs (launch.gpus_per_node)")
    grid = cells(recipe)
    table = by_facet(points(recipe, grid, recipe.fit.convention), axis_names(recipe.grid))
    ends, found = run_ends(recipe, grid), list[Lifetime]()
    by_id = {cell.id: cell for cell in grid}
    for facet, part in facets(for_laws(table, recipe.fit)):
        runs = runs_of(part, ends)
        told = list(metrics(runs))
        found += [] if told else [Lifetime(facet or "any metric", tuple(wells), lacking=_too_few(runs))]
        for name, metric, rows in told:
            label = f"{name}, {facet}" if facet else name
            found += _of_metric(recipe, by_id, label, metric, rows, wells, goal)
    return found or [Lifetime("any metric", tuple(wells), lacking=_too_few(None))]


def _too_few(runs: pd.DataFrame | None) -> str:
    count, costs, crops = (0, 0, 0) if runs is None else (len(runs), *(runs[f].nunique() for f in ("cost", "crops")))
    return (
        f"not enough to tell: {counted(count, 'finished run')} at {counted(costs, 'cost per crop', 'costs per crop')} "
        f"and {counted(crops, 'number of crops seen', 'numbers of crops seen')}; "
        f"{FEWEST_RUNS} runs that differ, at {FEWEST_VALUES} or more of each, would be"
    )


def _of_metric(
    recipe: Recipe, by_id: Mapping[str, Cell], name: str, metric: Metric, runs: pd.DataFrame, wells: Sequence[float],
    goal: Goal,
) -> Iterator[Lifetime]:  # fmt: skip
    """One frontier for each patch size among the runs; one reason where they do not identify the law."""
    import pandas as pd

    from analysis.design.frontier import EXPONENTS
    from analysis.design.life import LifeLaw
    from analysis.fitting import averages
    from analysis.fitting.estimate import Points
    from analysis.fitting.parameters import parameters

    data = Points(runs[["cost", "crops"]].to_numpy(float), runs["y"].to_numpy(float))
    try:
        fitted = averages.fit(data, metric, "joint").members[0]
    except ValueError as error:
        yield Lifetime(name, tuple(wells), lacking=f"no joint law: {error}")
        return
    loose = [p.name for p in parameters(fitted, data) if p.name in EXPONENTS and not p.identified]
    if loose:
        would = "; ".join(MORE[exponent] for exponent in loose)
        lacking = f"not enough to tell: {len(runs)} runs do not identify {' and '.join(loose)} of the joint law"
        yield Lifetime(name, tuple(wells), lacking=f"{lacking}; {would} would")
        return
    law, asked = LifeLaw.of(fitted, data), goal.recall if metric.kind == "share" else goal.loss
    best = int(runs["y"].argmax() if metric.kind == "share" else runs["y"].argmin())
    wanted = asked if asked is not None else float(fitted.predict(data.x[best : best + 1])[0])
    whose = "as asked" if asked is not None else f"what the law of {len(runs)} runs gives for {runs.index[best]}"
    for patch, rows in runs.groupby("patch", dropna=False):
        of_patch = name if pd.isna(patch) or metric.kind == "loss" else f"{name} of patch {patch!s}"
        family = [by_id[str(cell)] for cell in rows.index]
        yield _in_family(recipe, of_patch, law, family, wells, wanted, whose, goal.budget)


def _in_family(
    recipe: Recipe, name: str, law: LifeLaw, family: Sequence[Cell], wells: Sequence[float], wanted: float, whose: str,
    budget: float | None,
) -> Lifetime:  # fmt: skip
    import numpy as np

    crops = CROPS_PER_WELL * np.array(wells, dtype=np.float64)
    try:
        names, costs = _costs(recipe, family)
    except ValueError as error:  # where a larger model reaches a much larger share of the peak
        return Lifetime(name, tuple(wells), lacking=str(error))
    units, doubts = [], dict[str, None]()
    for unit, of_unit in costs.items():
        if budget is not None and unit == FLOPS:
            continue
        metric = wanted if budget is None else None
        life = law.frontier(of_unit, crops, metric=metric, budget=budget)
        units.append(InUnit(unit, life, _in_wells(law.turns(of_unit, names, wanted)) if budget is None else ()))
        doubts |= dict.fromkeys(_doubts(life, of_unit))
    goal = f"{wanted:.4g}, {whose}" if budget is None else f"the best for {budget:,.0f} GPU hours over a life"
    sizes = tuple(zip(names, next(iter(costs.values())).size.tolist(), strict=True))
    return Lifetime(name, tuple(wells), goal, tuple(units), sizes, budget is not None, doubt="; ".join(doubts))


def _in_wells(turns: Sequence[ModelTurn]) -> tuple[ModelTurn, ...]:
    from analysis.design.life import ModelTurn

    return tuple(
        ModelTurn(turn.model, *(crops / CROPS_PER_WELL for crops in (turn.crops, turn.low, turn.high)))
        for turn in turns
    )


def _doubts(life: Life, costs: Costs) -> Iterator[str]:
    import numpy as np

    if (life.reached < SURE).any():
        yield f"{1 - life.reached.min():.0%} of resampled laws do not reach it at any size"
    size = life.size.value
    if (np.isfinite(size) & ((size < costs.size[0]) | (size > costs.size[-1]))).any():
        yield (
            f"best sizes outside {costs.size[0]:.3g} to {costs.size[-1]:.3g} a crop are extrapolated: no model of the "
            "study is there"
        )


def _costs(recipe: Recipe, family: Sequence[Cell]) -> tuple[list[str], dict[str, Costs]]:
    """Models from the cheapest on, and the costs of their crops by unit; models of one cost per crop are one."""
    import numpy as np

    from analysis.design.lifetime import Costs

    of_size: dict[float, list[Cell]] = {}
    for cell in family:
        assert cell.architecture is not None
        size = flops_per_crop(recipe.fit.convention, cost_of(cell.architecture))
        of_size.setdefault(size, []).append(cell)
    sizes = sorted(of_size)
    per_crop = np.array([np.mean([_per_crop(recipe, cell) for cell in of_size[size]], axis=0) for size in sizes])
    names = [" / ".join(dict.fromkeys(cell.model for cell in of_size[size])) for size in sizes]
    costs = {FLOPS: Costs(np.array(sizes), per_crop[:, 0], per_crop[:, 1])}
    if recipe.launch.gpus_per_node:
        costs[HOURS] = Costs(np.array(sizes), per_crop[:, 2], per_crop[:, 3])
    return names, costs


def _per_crop(recipe: Recipe, cell: Cell) -> tuple[float, float, float, float]:
    """FLOPs of a crop in training and embedding, and GPU hours of them as planned."""
    assert cell.architecture is not None
    system, plan = cost_of(cell.architecture), plan_cell(recipe, cell, 0)
    hours = embed_seconds(cell.recipe(recipe), cell, system) / HOUR
    return mae_train(system), FLOPS_PER_MAC * dense_forward(system), plan.gpu_hours / max(plan.crops, 1), hours


def lives(screens: int, per_screen: float | None, recipe: Recipe) -> list[float]:
    """Wells embedded over lives of no screen to all of them, at most five steps.

    Raises:
        ValueError: the wells of a screen are neither given nor known; or a number is not positive.
    """
    wells = per_screen if per_screen is not None else embedded_wells(recipe)
    if not wells:
        raise ValueError("how many wells a screen has is not known: name it with --wells")
    if screens < 1 or not 0 < wells < math.inf:
        raise ValueError(f"--screens {screens} and --wells {wells:g} must be positive")
    steps = sorted({round(screens ** (step / 4)) for step in range(5)})
    return [0.0, *(step * float(wells) for step in steps)]
