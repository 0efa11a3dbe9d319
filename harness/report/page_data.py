"""What the report's page shows, from the ledger and the plan, under every compute convention."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.compute.flops import CONVENTIONS
from harness.grid.cell_folder import TRAIN_LOG, cell_folder
from harness.grid.cells import Cell, cells, fingerprint
from harness.plan.cost import HOUR, CellPlan, plan_cells
from harness.plan.resources import stage_resources
from harness.recipe.schema import Recipe
from harness.report import points
from harness.storage import ledger

if TYPE_CHECKING:
    import pandas as pd

    from analysis.page.study import CellRow, NextRun, Price, SourceFit, Study

LINE_POINTS = 60
BEYOND = 3.0  # times the largest compute that lines are drawn to
PROPOSED = 3  # runs that the page proposes
PACKAGES = ("torch", "timm", "numpy", "pandas", "plotly")


def study(recipe: Recipe) -> Study:
    """Everything the page shows of a study as it stands, finished or not."""
    from analysis.page.study import Study
    from harness.report.frontier import allocations
    from harness.report.reconstructions import samples

    grid = cells(recipe)
    tables = {name: points.points(recipe, grid, name) for name in CONVENTIONS}
    table, curves = tables[recipe.fit.convention], points.curves(recipe, grid, recipe.fit.convention)
    plans = {plan.cell.id: plan for plan in _plans(recipe, grid)}
    rows = [_row(recipe, cell, table, plans.get(cell.id)) for cell in grid]
    unfinished = sum(row.state != "done" for row in rows)
    figure = recipe.output / "report" / "reconstructions.png"
    proposed, no_next = _next_runs(recipe)
    return Study(
        title=f"Scaling study: {recipe.name}",
        question=(
            "How does the recall of known relationships grow with training compute, for masked autoencoders of "
            f"{len(recipe.trained_models)} models on {len(recipe.grid.datasets)} data sets?"
        ),
        convention=recipe.fit.convention,
        conventions=[{"name": c.name, "unit": c.unit, "meaning": c.meaning} for c in CONVENTIONS.values()],
        sources=list(dict.fromkeys(table["source"])),
        points=_points(tables, recipe.fit.convention),
        curves=_curves(curves, grid, recipe),
        frontier={name: _frontier(points.curves(recipe, grid, name)) for name in CONVENTIONS},
        fits={name: _fits(table, name, grid, plans) for name, table in tables.items()},
        cells=rows,
        unfinished=f"{unfinished} of {len(rows)} cells are not finished; what follows covers the others."
        if unfinished
        else "",
        allocations=allocations(recipe, grid, tables),
        price=_price(recipe),
        next_runs=proposed,
        no_next=no_next,
        provenance=_provenance(recipe, grid),
        reconstructions=figure if figure.exists() else None,
        samples=samples(recipe, grid),
    )


def _plans(recipe: Recipe, grid: Sequence[Cell]) -> list[CellPlan]:
    """No plan where a dataset's size is not known: the page then shows no planned hours."""
    try:
        return plan_cells(recipe, grid)
    except (ValueError, OSError):
        return []


def _number(value: object) -> float | None:
    """A finite number, or None."""
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if math.isfinite(number) else None


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A table's row as JSON has it: missing values as None."""
    import pandas as pd

    return {
        str(key): None if pd.isna(value) else getattr(value, "item", lambda v=value: v)() for key, value in row.items()
    }


def _points(tables: Mapping[str, pd.DataFrame], convention: str) -> list[dict[str, Any]]:
    rows = [_plain(row) for row in tables[convention].to_dict("records")]
    for name, table in tables.items():
        for row, value in zip(rows, table["compute"], strict=True):
            if not isinstance(row["compute"], dict):
                row["compute"] = {}
            row["compute"][name] = _number(float(value))
    return rows


def _curves(curves: pd.DataFrame, grid: Sequence[Cell], recipe: Recipe) -> list[dict[str, Any]]:
    by_name = {name: points.curves(recipe, grid, name) for name in CONVENTIONS}
    drawn = []
    for cell, rows in curves[curves["crops"] > 0].groupby("cell", sort=False):
        first = _plain(rows.iloc[0].to_dict())
        compute = {name: table.loc[rows.index, "compute"].tolist() for name, table in by_name.items()}
        same = {"cell": cell, "size": first["size"], "patch": first["patch"]}
        drawn.append(same | {"loss": rows["loss"].tolist(), "compute": compute})
    return drawn


def _frontier(curves: pd.DataFrame) -> dict[str, list[float]]:
    from analysis.figures.loss import lower_frontier

    frontier = lower_frontier(curves[curves["compute"] > 0])
    return {"x": frontier["compute"].tolist(), "y": frontier["loss"].tolist()}


def _fits(
    table: pd.DataFrame, convention: str, grid: Sequence[Cell], plans: Mapping[str, CellPlan]
) -> dict[str, SourceFit]:
    """A line per source, and the checks of `analysis.fitting` with model cost and crops as the two factors."""
    from analysis.fitting.trend import MINIMUM_COMPUTES, fit_sources

    table = points.one_family(table)
    trained = table[table["trained"].astype(bool)]
    if not len(trained) or trained["compute"].nunique() < MINIMUM_COMPUTES:
        return {}
    return {
        fit.source: _source_fit(fit, trained[trained["source"] == fit.source]) for fit in fit_sources(table, convention)
    }


def _source_fit(fit: Any, runs: pd.DataFrame) -> SourceFit:  # noqa: ANN401  (a LogLinearFit, imported lazily)
    import numpy as np

    from analysis.page.study import SourceFit

    grid = np.geomspace(fit.compute_low, fit.compute_high * BEYOND, LINE_POINTS)
    band = fit.band(grid)
    line = {"x": grid.tolist(), "y": band.centre.tolist(), "low": band.low.tolist(), "high": band.high.tolist()}
    rises = "rises" if fit.slope.low > 0 else "falls" if fit.slope.high < 0 else "shows no clear trend"
    answer = (
        f"recall {rises}: {fit.law.slope:+.3f} per decade of compute "
        f"({fit.slope.confidence:.0%} interval {fit.slope.low:+.3f} to {fit.slope.high:+.3f}, {fit.runs} runs)."
    )
    checks = _checks(runs)
    warned = [f"{check['check']}: {check['detail']}" for check in checks if check["verdict"] == "warn"]
    if any(text.startswith("two factors") for text in warned):
        answer += " But see the two-factor check: compute may not be what explains it."
    return SourceFit(answer, line, checks)


def _checks(runs: pd.DataFrame) -> list[dict[str, str]]:
    """The checklist of a straight line through one source's runs."""
    import numpy as np

    from analysis.fitting.estimate import Factors, Points
    from analysis.fitting.fit_curve import fit_points
    from analysis.laws.metric import Metric

    compute, crops = runs["compute"].to_numpy(float), runs["crops"].to_numpy(float)
    factors = Factors(("cost per crop", "crops"), np.column_stack([compute / crops, crops]))
    points = Points(compute[:, None], runs["recall"].to_numpy(float))
    try:
        fitted = fit_points(points, Metric("share"), "log_linear", factors=factors)
    except ValueError as error:
        return [{"check": "fit", "verdict": "warn", "detail": str(error)}]
    return [{"check": check.check, "verdict": check.verdict, "detail": check.detail} for check in fitted.checks]


def _row(recipe: Recipe, cell: Cell, table: pd.DataFrame, plan: CellPlan | None) -> CellRow:
    from analysis.page.study import CellRow

    recalls = table[table["cell"] == cell.id]
    rows = {stage: ledger.read(recipe.output, cell.id, stage) for stage in ledger.STAGES}
    finished = [(stage, row) for stage, row in rows.items() if row is not None]
    train = rows["train"]
    log = cell_folder(recipe, cell) / TRAIN_LOG
    return CellRow(
        cell=cell.id,
        model=cell.model,
        dataset=cell.dataset or "",
        seed=cell.seed,
        state="done" if len(recalls) else "part" if finished else "missing",
        loss=_number(train.values.get("validation_loss")) if train else None,
        recalls={str(source): float(value) for source, value in zip(recalls["source"], recalls["recall"], strict=True)},
        planned_hours=_number(plan.all_hours) if plan and recipe.launch.gpus_per_node else None,
        spent_hours=sum(_spent(recipe, cell, stage, row) for stage, row in finished) if finished else None,
        log=str(Path("..") / log.relative_to(recipe.output)) if log.exists() else None,
    )


def _spent(recipe: Recipe, cell: Cell, stage: ledger.Stage, row: ledger.LedgerRow) -> float:
    """GPU hours of a stage, or hours of its processes on a machine without GPUs; evaluation takes no GPU.

    A resumed cell counts its training from the first step on, and the start-up of its last process only.
    """
    hours = max(float(row.values.get(name, 0.0)) for name in ("stage_seconds", "train_seconds")) / HOUR
    resources = stage_resources(recipe.launch, cell, stage)
    return hours * resources.nodes * resources.gpus_per_node if recipe.launch.gpus_per_node else hours


def _price(recipe: Recipe) -> Price | None:
    from analysis.page.study import Price

    gpu = recipe.hardware.gpu_type
    return Price(gpu.name, gpu.price_per_hour) if recipe.launch.gpus_per_node else None


def _next_runs(recipe: Recipe) -> tuple[list[NextRun], str]:
    """The open cells that narrow mean recall at the largest planned compute most per GPU hour, or why there is none."""
    from analysis.page.study import NextRun
    from harness.report.next_runs import propose

    try:
        proposal = propose(recipe, count=PROPOSED, budget=math.inf)
    except (ValueError, OSError) as error:
        return [], f"Nothing can be proposed yet: {error}."
    where = f"mean recall at {proposal.target:.2g} ({proposal.convention})"
    runs = [
        NextRun(run.candidate.name, run.candidate.hours, f"{where}: ± {run.before:.4f} → {run.after:.4f}")
        for run in proposal.buy
    ]
    return runs, "" if runs else f"No open cell would narrow {where}: the study is complete, or the rest adds nothing."


def _provenance(recipe: Recipe, grid: Sequence[Cell]) -> dict[str, str]:
    stages = [row for stage in ledger.STAGES for row in ledger.rows(recipe.output, stage)]
    fingerprints = sorted(f"{row.cell}/{row.stage}/{row.fingerprint}" for row in stages)
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    ours = f"microscopy-scaling {version('microscopy-scaling')}"
    return {
        "recipe": f"{recipe.name}, {fingerprint(recipe.model_dump(mode='json'))[:16]}",
        "cells": ", ".join(sorted({cell.kind for cell in grid})) + f": {len(grid)}",
        "ledger": f"{len(stages)} rows, {fingerprint(fingerprints)[:16]}",
        "compute": ", ".join(f"{c.name} version {c.version}" for c in CONVENTIONS.values()),
        "fit": "recall = a + b log10(compute), least squares; intervals from runs drawn with replacement",
        "written by": f"{ours}, Python {platform.python_version()}; {packages}",
    }
