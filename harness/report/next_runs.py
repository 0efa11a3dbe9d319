"""What to run next: of the cells that are not done, those that narrow the prediction at a target most in a budget.

`analysis.design` computes it from the study's runs (recall, averaged over its relationship sources), its open cells and
their planned cost, and says what the finished runs leave open and why each run is proposed: for range, or to narrow.
A grid with axes has a law at each point; the best runs of all points are proposed together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.plan.cost import CellPlan, plan_cells
from harness.recipe.axes import point_name
from harness.recipe.schema import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from analysis.design.next_runs import Candidate, RankedRun
    from analysis.design.plausible import Unsettled

PURPOSES = {"range": "for the range: no run is near", "narrowing": "to narrow"}
LAW = "log_linear"


@dataclass(frozen=True)
class Proposal:
    """Runs to do next, best first, and open cells that the prediction at the target hardly needs."""

    target: float  # compute, in the recipe's convention
    convention: str
    buy: tuple[RankedRun, ...]
    drop: tuple[RankedRun, ...]
    places: Mapping[str, str] = field(default_factory=dict)  # where a cell is on the axes, in words
    notes: tuple[str, ...] = ()  # points of the axes at which nothing can be proposed yet
    unsettled: tuple[str, ...] = ()  # what the finished runs do not settle, in words


def propose(recipe: Recipe, *, count: int, budget: float, target: float | None = None) -> Proposal:
    """Design the next runs of a study from those that are evaluated.

    Args:
        recipe: the study.
        count: at most this many runs.
        budget: GPU hours for all of them together.
        target: compute at which recall is predicted; None: the largest that is planned.

    Raises:
        ValueError: fewer runs are evaluated than a law needs, at every point of the axes.
    """
    from harness.report.points import annealed_only, points

    grid, convention = cells(recipe), recipe.fit.convention
    plans = _with_their_segments(recipe, plan_cells(recipe, grid))
    table = annealed_only(points(recipe, grid, convention), recipe.fit)
    trained = table[table["trained"].astype(bool)]
    compute = target or max(plan.flops[convention] for plan in plans)
    parts: list[Proposal] = []
    lacking: list[str] = []
    for place, own in _by_place(plans).items():
        runs = trained[trained["cell"].isin(_ids(grid, place))]
        try:
            parts.append(_at_place(recipe, own, runs, count, budget, compute))
        except ValueError as error:
            lacking.append(f"{place}: {error}" if place else str(error))
    if not parts:
        raise ValueError("; ".join(lacking))
    places = {plan.cell.id: place for place, own in _by_place(plans).items() for plan in own if place}
    buy = _merged([part.buy for part in parts], count, budget)
    drop = tuple(run for part in parts for run in part.drop)
    return Proposal(compute, convention, buy, drop, places, tuple(lacking), _told(parts, places))


def _told(parts: Sequence[Proposal], places: Mapping[str, str]) -> tuple[str, ...]:
    """What is open at each point of the axes, named where there are several."""
    told = list[str]()
    for part in parts:
        cell = next((run.candidate.name for run in (*part.buy, *part.drop)), "")
        told += [f"{places[cell]}: {line}" if cell in places else line for line in part.unsettled]
    return tuple(told)


def _with_their_segments(recipe: Recipe, plans: Sequence[CellPlan]) -> list[CellPlan]:
    """The runs that cost GPU hours; those of a cell include what it starts from, as far as that is not trained yet."""
    from harness.report.rows import train_values

    by_cell = {plan.cell.id: plan for plan in plans}
    finals = []
    for plan in plans:
        start, crops = plan.cell.start, plan.crops
        while start is not None and train_values(recipe, start) is None:
            crops, start = crops + by_cell[start.id].crops, start.start
        if plan.cell.kind == "trained" and plan.gpu_hours > 0:
            finals.append(replace(plan, crops=crops, steps=round(plan.steps * crops / plan.crops)))
    return finals


def _by_place(plans: Sequence[CellPlan]) -> dict[str, list[CellPlan]]:
    """Plans by the point of the axes that their cells are at; all under no name without axes."""
    found: dict[str, list[CellPlan]] = {}
    for plan in plans:
        found.setdefault(point_name(plan.cell.point.coordinates()), []).append(plan)
    return found


def _ids(grid: Sequence[Cell], place: str) -> set[str]:
    return {cell.id for cell in grid if point_name(cell.point.coordinates()) == place}


def _at_place(
    recipe: Recipe, plans: Sequence[CellPlan], table: pd.DataFrame, count: int, budget: float, compute: float
) -> Proposal:
    """The proposal along the law at one point of the axes.

    Raises:
        ValueError: fewer runs are evaluated there than a law needs.
    """
    from analysis.design import next_runs
    from analysis.fitting import averages
    from analysis.fitting.estimate import Points
    from analysis.laws.metric import Metric
    from harness.report.rows import evaluate_values

    convention = recipe.fit.convention
    runs = table.groupby("cell")[["compute", "recall"]].mean()
    if runs["compute"].nunique() < averages.FEWEST:
        raise ValueError(
            f"{len(runs)} trained cells are evaluated, at {runs['compute'].nunique()} distinct computes; "
            f"at least {averages.FEWEST} are needed to propose the next runs"
        )
    open_plans = [plan for plan in plans if evaluate_values(recipe, plan.cell) is None]
    options = [_candidate(plan, convention) for plan in open_plans if not _is_stopped(recipe, plan.cell)]
    if not options:
        return Proposal(compute, convention, (), ())
    evaluated = Points(runs[["compute"]].to_numpy(float), runs["recall"].to_numpy(float))
    law = averages.fit(evaluated, Metric("share"), LAW)
    buy = next_runs.next_runs(law, evaluated, options, compute, budget=budget, count=count)
    drop = next_runs.droppable(law, evaluated, options, compute)
    left = _unsettled(next_runs.unsettled(law, evaluated, compute))
    return Proposal(compute, convention, tuple(buy), tuple(drop), unsettled=(left,))


def _unsettled(left: Unsettled) -> str:
    low, high = left.exponent
    words = f"the finished runs fit laws with exponents from {low:.2g} to {high:.2g}"
    if left.plateau is None:
        return words
    least, most = left.plateau
    return f"{words}, and ceilings that leave {least:.0%} to {most:.0%} of what recall still lacks at the largest run"


def _is_stopped(recipe: Recipe, cell: Cell) -> bool:
    """Whether `launch.stop_when` ended a cell."""
    from harness.report.rows import train_values

    trained = train_values(recipe, cell)
    return trained is not None and trained.stopped is not None


def _merged(orders: Sequence[Sequence[RankedRun]], count: int, budget: float) -> tuple[RankedRun, ...]:
    """The best runs of several orders within a count and a budget, each order kept: its runs build on one another."""
    if len(orders) == 1:
        return tuple(orders[0])
    waiting = [list(order) for order in orders]
    taken: list[RankedRun] = []
    while len(taken) < count and any(waiting):
        best = max((order for order in waiting if order), key=lambda order: order[0].per_hour)
        run = best.pop(0)
        if run.candidate.hours > budget:
            best.clear()  # what follows was chosen given this run
        else:
            taken.append(run)
            budget -= run.candidate.hours
    return tuple(taken)


def _candidate(plan: CellPlan, convention: str) -> Candidate:
    from analysis.design.next_runs import Candidate

    return Candidate(plan.cell.id, plan.flops[convention], plan.gpu_hours)


def text(proposal: Proposal) -> str:
    """The proposal for a terminal."""
    each = ", at each point of the axes" if proposal.places else ""
    lines = [
        *proposal.unsettled,
        f"for mean recall at {proposal.target:.3g} ({proposal.convention}){each}, in this order:",
    ]
    lines += [f"  {_words(run, proposal)}   {PURPOSES[run.purpose]}" for run in proposal.buy] or [
        "  no open cell within the budget would narrow it"
    ]
    if proposal.drop:
        lines += [
            "open cells that it hardly needs, most expensive first:",
            *(f"  {_words(run, proposal)}" for run in proposal.drop),
        ]
    return "\n".join([*lines, *(f"nothing is proposed at {note}" for note in proposal.notes)])


def _words(run: RankedRun, proposal: Proposal) -> str:
    place = proposal.places.get(run.candidate.name, "")
    numbers = f"{run.candidate.hours:>12,.1f} GPU h   ± {run.before:.4f} → {run.after:.4f}"
    return f"{run.candidate.name:<44}{numbers}{f'   {place}' if place else ''}"


def as_json(proposal: Proposal) -> str:
    def rows(choices: Sequence[RankedRun]) -> list[dict[str, object]]:
        return [
            {
                "cell": c.candidate.name,
                "gpu_hours": c.candidate.hours,
                "before": c.before,
                "after": c.after,
                "purpose": c.purpose,
            }
            | ({"axes": proposal.places[c.candidate.name]} if c.candidate.name in proposal.places else {})
            for c in choices
        ]

    values: dict[str, object] = {"target": proposal.target, "convention": proposal.convention}
    values["unsettled"] = list(proposal.unsettled)
    if proposal.notes:
        values["notes"] = list(proposal.notes)
    return json.dumps(values | {"buy": rows(proposal.buy), "drop": rows(proposal.drop)}, indent=1)
