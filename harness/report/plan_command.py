"""`plan` and `frontier`: what cells cost, what to run next, what the study can tell, and the best size over a life."""

from __future__ import annotations

import argparse
import math
import sys

from harness.grid.cells import cells
from harness.plan import table
from harness.plan.cost import misfits, plan_cells
from harness.recipe.schema import Recipe


def plan(recipe: Recipe, options: argparse.Namespace) -> int:
    """Print the plan, or what `--power` or `--next` asks; exit status 1 if something does not fit a GPU."""
    if options.power is not None:
        return _power(recipe, options)
    if options.next:
        return _next(recipe, options)
    plans = plan_cells(recipe, cells(recipe))
    print(table.as_json(recipe, plans) if options.json else table.table(recipe, plans, wide=options.wide))
    if any(recipe.output.glob("ledger/*/evaluate.json")) and not options.json:
        from harness.report.lifetime.text import summary

        print(*summary(recipe), sep="\n")
    if options.measure_memory:
        print(table.measured_memory(plans))
    refused = misfits(plans, recipe.hardware.gpu_type)
    for line in refused:
        print(f"does not fit: {line}", file=sys.stderr)
    return 1 if refused else 0


def _power(recipe: Recipe, options: argparse.Namespace) -> int:
    from harness.report.gains import power

    found = power.power(recipe, cells(recipe), options.power)
    print(power.as_json(found) if options.json else power.text(found))
    return 0


def _next(recipe: Recipe, options: argparse.Namespace) -> int:
    from harness.report import next_runs
    from harness.report.left_out import left_out

    for file in left_out(recipe, cells(recipe)):
        print(f"left out of the proposal: {file}", file=sys.stderr)
    proposal = next_runs.propose(recipe, count=options.next, budget=options.budget, target=options.target)
    print(next_runs.as_json(proposal) if options.json else next_runs.text(proposal))
    return 0


def frontier(recipe: Recipe, options: argparse.Namespace) -> int:
    """Print the best model size over a life of screens."""
    from harness.report.lifetime.frontiers import Goal, lifetimes, lives
    from harness.report.lifetime.text import as_json, text

    goal = Goal(options.recall, options.loss, options.budget if math.isfinite(options.budget) else None)
    found = lifetimes(recipe, lives(options.screens, options.wells, recipe), goal)
    print(as_json(found, recipe) if options.json else text(found, recipe))
    return 0
