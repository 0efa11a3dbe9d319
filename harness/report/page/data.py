"""What the report's page shows, from the ledger and the plan, under every compute convention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.compute.flops import CONVENTIONS
from analysis.figures.text_table import counted
from analysis.fitting import annealing
from harness.grid.cell import Cell, fingerprint
from harness.grid.cells import cells
from harness.plan.cost import CellPlan, plan_cells
from harness.recipe.axes import axis_names
from harness.recipe.schema import Fit, Recipe
from harness.report import points
from harness.report.facets import by_facet
from harness.report.left_out import LeftOut
from harness.report.page.cell_rows import cell_rows, hours_spent
from harness.report.page.curves import drawn_curves, drawn_points, frontier, is_thinned
from harness.report.rows import stage_values
from harness.report.stamp import code, packages
from harness.report.stopped import STOPPED, censored, stopped_sentence
from harness.storage import ledger

if TYPE_CHECKING:
    import pandas as pd

    from analysis.fitting.trend import LogLinearFit
    from analysis.page.gains import TrainingGain
    from analysis.page.study import BestRates, Multipliers, NextRun, Price, SourceFit, Study

LINE_POINTS = 60
BEYOND = 3.0  # times the largest compute that lines are drawn to
THINNED = "Of each curve some readings are drawn, spread evenly from the first to the last; curves.csv has all."
PROPOSED = 3  # runs that the page proposes


def study(
    recipe: Recipe, crops: Path | None = None, missing: Sequence[LeftOut] = (), *,
    multipliers: Sequence[Multipliers] = (), best_rates: BestRates | None = None, gain: TrainingGain | None = None,
) -> Study:  # fmt: skip
    """Everything the page shows of a study as it stands, finished or not.

    Args:
        recipe: the study.
        crops: the figure of reconstructions, if there is one.
        missing: files that the report leaves out.
        multipliers: of the variants along each axis.
        best_rates: of the sweeps of the learning rate, if there are any.
        gain: what training adds, if trained cells are evaluated.
    """
    from analysis.page.study import Study
    from harness.report.forecasts.live import outlooks
    from harness.report.forecasts.score import scores, verified
    from harness.report.frontier import allocations
    from harness.report.lifetime.panel import panels
    from harness.report.reconstructions import samples

    grid = cells(recipe)
    axes = axis_names(recipe.grid)
    table = points.points(recipe, grid, recipe.fit.convention)
    tables = {name: by_facet(points.points(recipe, grid, name), axes) for name in CONVENTIONS}
    curves = points.curves(recipe, grid, recipe.fit.convention)
    planned = {plan.cell.id: plan for plan in plans(recipe, grid)}
    rows = cell_rows(recipe, grid, table, planned)
    unfinished = sum(row.state not in ("done", STOPPED) for row in rows)
    forecasts, _ = verified(recipe)
    ended = sum(row.state == STOPPED for row in rows)
    proposed, no_next, unsettled = _next_runs(recipe)
    return Study(
        title=f"Scaling study: {recipe.name}",
        question=_question(recipe),
        convention=recipe.fit.convention,
        conventions=[{"name": c.name, "unit": c.unit, "meaning": c.meaning} for c in CONVENTIONS.values()],
        sources=list(dict.fromkeys(tables[recipe.fit.convention]["source"])),
        points=drawn_points(tables, recipe.fit.convention),
        thinned=THINNED if is_thinned(curves) else "",
        curves=drawn_curves(curves, grid, recipe),
        frontier={name: frontier(points.curves(recipe, grid, name)) for name in CONVENTIONS},
        fits={name: _fits(table, name, recipe.fit, ended) for name, table in tables.items()},
        cells=rows,
        unfinished=f"{unfinished} of {len(rows)} cells {'is' if unfinished == 1 else 'are'} not finished; what follows "
        "covers the others."
        if unfinished
        else "",
        left_out=[str(file) for file in missing],
        stopped=stopped_sentence(table, recipe.fit, {cell.id for cell in grid if cell.is_snapshot}, ended),
        allocations=allocations(recipe, grid, tables),
        lives=panels(recipe) if tables[recipe.fit.convention]["trained"].any() else [],
        goodput=hours_spent(recipe, grid),
        price=_price(recipe),
        next_runs=proposed,
        no_next=no_next,
        unsettled=unsettled,
        provenance=_provenance(recipe, grid),
        reconstructions=crops,
        samples=samples(recipe, grid),
        multipliers=multipliers,
        best_rates=best_rates,
        gain=gain,
        outlooks=outlooks(recipe, grid),
        forecasts=scores(recipe, grid, forecasts),
        sealed=f"{len(forecasts)} forecasts were sealed; the seal of the last is {forecasts[-1].seal}."
        if forecasts
        else "",
    )


def _question(recipe: Recipe) -> str:
    what = "recall of known relationships grow" if recipe.evaluate else "loss of hidden patches fall"
    models = counted(len(recipe.trained_models), "model")
    sets = counted(len(recipe.grid.datasets), "data set")
    return f"How does the {what} with training compute, for {models} on {sets}{_at_points(recipe)}?"


def _at_points(recipe: Recipe) -> str:
    count = recipe.grid.point_count
    return f", at {count} points of {', '.join(axis_names(recipe.grid))}" if count > 1 else ""


def plans(recipe: Recipe, grid: Sequence[Cell]) -> list[CellPlan]:
    """No plan where a dataset's size is not known: the page then shows no planned hours."""
    try:
        return plan_cells(recipe, grid)
    except (ValueError, OSError):
        return []


def _fits(table: pd.DataFrame, convention: str, fit: Fit, ended: int) -> dict[str, SourceFit]:
    """A line per source, and the checks of `analysis.fitting` with model cost and crops as the two factors."""
    from analysis.fitting.trend import drawn

    kept = points.for_laws(table, fit)
    trained = kept[kept["trained"].astype(bool)]
    return {
        trend.source: _source_fit(trend, drawn(trained[trained["source"] == trend.source]), ended)
        for trend in points.trends(table, fit, convention)
    }


def _source_fit(fit: LogLinearFit, runs: pd.DataFrame, ended: int) -> SourceFit:
    import numpy as np

    from analysis.page.study import SourceFit

    grid = np.geomspace(fit.compute_low, fit.compute_high * BEYOND, LINE_POINTS)
    band = fit.band(grid)
    line = {"x": grid.tolist(), "y": band.centre.tolist(), "low": band.low.tolist(), "high": band.high.tolist()}
    rises = "rises" if fit.slope.low > 0 else "falls" if fit.slope.high < 0 else "shows no clear trend"
    notes = annealing.notes(fit.left_out, fit.unknown, "runs", "fit.include_unannealed")
    counted = "; ".join([f"{fit.runs} runs{_drawn(fit)}{_scatter(fit)}", *notes])
    answer = (
        f"recall {rises}: {fit.law.slope:+.3f} per decade of compute "
        f"({fit.slope.confidence:.0%} interval {fit.slope.low:+.3f} to {fit.slope.high:+.3f}, {counted})."
    )
    checks = _checks(runs, [*notes, *([censored(ended)] if ended else [])])
    warned = [f"{check['check']}: {check['detail']}" for check in checks if check["verdict"] == "warn"]
    if any(text.startswith("two factors") for text in warned):
        answer += " But see the two-factor check: compute may not be what explains it."
    return SourceFit(answer, line, checks)


def _drawn(fit: LogLinearFit) -> str:
    """From how many the runs of a fit were drawn, if there were too many."""
    return f" drawn from {fit.drawn_from:,}" if fit.drawn_from else ""


def _scatter(fit: LogLinearFit) -> str:
    """How much models scatter about the line, in words, where it can be told."""
    if fit.scatter is None:
        return ""
    between, within = f"{fit.scatter.between:.3f}", f"{fit.scatter.within:.3f}"
    return f" of {fit.scatter.architectures} models; standard deviation {between} between models, {within} within"


def _checks(runs: pd.DataFrame, notes: Sequence[str]) -> list[dict[str, str]]:
    """The checklist of a straight line through one source's runs; `notes` say which were left out."""
    import numpy as np

    from analysis.fitting.estimate import Factors, Points
    from analysis.fitting.fit_curve import fit_points
    from analysis.fitting.variance_components import Levels
    from analysis.laws.metric import Metric

    compute, crops = runs["compute"].to_numpy(float), runs["crops"].to_numpy(float)
    factors = Factors(("cost per crop", "crops"), np.column_stack([compute / crops, crops]))
    levels = Levels(tuple(runs["model"].astype(str)))
    points = Points(compute[:, None], runs["recall"].to_numpy(float), levels=levels)
    try:
        fitted = fit_points(points, Metric("share"), "log_linear", factors=factors, notes=notes)
    except ValueError as error:
        return [{"check": "fit", "verdict": "warn", "detail": str(error)}]
    return [{"check": check.check, "verdict": check.verdict, "detail": check.detail} for check in fitted.checks]


def _price(recipe: Recipe) -> Price | None:
    from analysis.page.study import Price

    gpu = recipe.hardware.gpu_type
    return Price(gpu.name, gpu.price_per_hour) if recipe.launch.gpus_per_node else None


def _next_runs(recipe: Recipe) -> tuple[list[NextRun], str, tuple[str, ...]]:
    """The cells to run next for mean recall at the largest planned compute, or why there is none; what is unsettled."""
    from analysis.page.study import NextRun
    from harness.report.next_runs import PURPOSES, propose

    try:
        proposal = propose(recipe, count=PROPOSED, budget=math.inf)
    except (ValueError, OSError) as error:
        return [], f"Nothing can be proposed yet: {error}.", ()
    where = f"mean recall at {proposal.target:.2g} ({proposal.convention})"
    runs = [
        NextRun(
            run.candidate.name,
            run.candidate.hours,
            f"{_at(where, proposal.places.get(run.candidate.name))}: ± {run.before:.4f} → {run.after:.4f}, "
            f"{PURPOSES[run.purpose]}",
        )
        for run in proposal.buy
    ]
    none = f"No open cell would narrow {where}: the study is complete, or the rest adds nothing."
    return runs, "" if runs else none, proposal.unsettled if runs else ()


def _at(where: str, place: str | None) -> str:
    return f"{where}, {place}" if place else where


def _provenance(recipe: Recipe, grid: Sequence[Cell]) -> dict[str, str]:
    stages = [
        row
        for cell in grid
        for stage in ledger.STAGES
        if stage_values(recipe, cell, stage) and (row := ledger.read(recipe.output, cell.id, stage))
    ]
    fingerprints = sorted(f"{row.cell}/{row.stage}/{row.fingerprint}" for row in stages)
    return {
        "recipe": f"{recipe.name}, {fingerprint(recipe.model_dump(mode='json'))[:16]}",
        "cells": ", ".join(sorted({cell.kind for cell in grid})) + f": {len(grid)}",
        "ledger": f"{len(stages)} rows, {fingerprint(fingerprints)[:16]}",
        "compute": ", ".join(f"{c.name} version {c.version}" for c in CONVENTIONS.values()),
        "fit": "recall = a + b log10(compute), least squares; where models have several runs, each has a level and "
        "intervals are by restricted likelihood, else from runs drawn with replacement",
        "written by": ", ".join(f"{name} {number}" for name, number in packages().items()),
        "code": code()[:16],
    }
