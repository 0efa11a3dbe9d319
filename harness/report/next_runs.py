"""What to run next: of the cells that are not done, those that narrow the prediction at a target most per GPU hour.

`analysis.design` computes it from the study's runs (recall, averaged over its relationship sources), its open cells and
their planned cost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.plan.cost import CellPlan, plan_cells
from harness.recipe.schema import Recipe

if TYPE_CHECKING:
    from analysis.design.next_runs import RankedRun

LAW = "log_linear"


@dataclass(frozen=True)
class Proposal:
    """Runs to do next, best first, and open cells that the prediction at the target hardly needs."""

    target: float  # compute, in the recipe's convention
    convention: str
    buy: tuple[RankedRun, ...]
    drop: tuple[RankedRun, ...]


def propose(recipe: Recipe, *, count: int, budget: float, target: float | None = None) -> Proposal:
    """Design the next runs of a study from those that are evaluated.

    Args:
        recipe: the study.
        count: at most this many runs.
        budget: GPU hours for all of them together.
        target: compute at which recall is predicted; None: the largest that is planned.

    Raises:
        ValueError: fewer runs are evaluated than a law needs.
    """
    from analysis.design import next_runs
    from analysis.design.next_runs import Candidate
    from analysis.fitting import averages
    from analysis.fitting.estimate import Points
    from analysis.laws.metric import Metric
    from harness.report.points import annealed_only, points
    from harness.report.rows import evaluate_values

    if recipe.grid.axes or recipe.grid.variants:
        raise ValueError("runs are proposed along one law, and a grid with axes has one at each point")
    grid, convention = cells(recipe), recipe.fit.convention
    planned = {plan.cell.id: plan for plan in plan_cells(recipe, grid)}
    plans = [plan for plan in planned.values() if plan.cell.kind == "trained" and plan.gpu_hours > 0]
    table = annealed_only(points(recipe, grid, convention), recipe.fit)
    runs = table[table["trained"].astype(bool)].groupby("cell")[["compute", "recall"]].mean()
    if runs["compute"].nunique() < averages.FEWEST:
        raise ValueError(
            f"{len(runs)} trained cells are evaluated, at {runs['compute'].nunique()} distinct computes; "
            f"at least {averages.FEWEST} are needed to propose the next runs"
        )
    evaluated = Points(runs[["compute"]].to_numpy(float), runs["recall"].to_numpy(float))
    law = averages.fit(evaluated, Metric("share"), LAW)
    compute = target or max(plan.flops[convention] for plan in plans)
    options = [
        Candidate(plan.cell.id, plan.flops[convention], _hours(recipe, plan.cell, planned))
        for plan in plans
        if evaluate_values(recipe, plan.cell) is None
    ]
    if not options:
        return Proposal(compute, convention, (), ())
    buy = next_runs.next_runs(law, evaluated, options, compute, budget=budget, count=count)
    return Proposal(compute, convention, tuple(buy), tuple(next_runs.droppable(law, evaluated, options, compute)))


def _hours(recipe: Recipe, cell: Cell, planned: Mapping[str, CellPlan]) -> float:
    """GPU hours to train a cell, and what it starts from as far as that is not trained yet."""
    from harness.report.rows import train_values

    before = cell.start
    lacks = before is not None and train_values(recipe, before) is None
    return planned[cell.id].gpu_hours + (_hours(recipe, before, planned) if before is not None and lacks else 0.0)


def text(proposal: Proposal) -> str:
    """The proposal for a terminal."""
    lines = [f"for mean recall at {proposal.target:.3g} ({proposal.convention}), best per GPU hour first:"]
    lines += [f"  {_words(run)}" for run in proposal.buy] or ["  no open cell within the budget would narrow it"]
    if proposal.drop:
        lines += [
            "open cells that it hardly needs, most expensive first:",
            *(f"  {_words(run)}" for run in proposal.drop),
        ]
    return "\n".join(lines)


def _words(run: RankedRun) -> str:
    return f"{run.candidate.name:<44}{run.candidate.hours:>12,.1f} GPU h   ± {run.before:.4f} → {run.after:.4f}"


def as_json(proposal: Proposal) -> str:
    def rows(choices: Sequence[RankedRun]) -> list[dict[str, object]]:
        return [
            {"cell": c.candidate.name, "gpu_hours": c.candidate.hours, "before": c.before, "after": c.after}
            for c in choices
        ]

    values = {"target": proposal.target, "convention": proposal.convention}
    return json.dumps(values | {"buy": rows(proposal.buy), "drop": rows(proposal.drop)}, indent=1)
