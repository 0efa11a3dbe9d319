"""Covers `shared`: what is trained where runs share their beginnings, against the same runs apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.grid.cells import cells
from harness.plan.cost import plan_cells
from harness.plan.shared import shared_work
from harness.plan.table import as_json, table
from harness.recipe.load import load

SCALING = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
ONE_RUN = ["grid.models=[vit_s16]", "grid.datasets=[rpi_93m]", "grid.untrained=false", "train.early_stopping=null"]
ENDS = "train.schedule={name: warmup_stable_decay, ends: [0.125, 0.25, 0.5, 1.0]}"


def test_the_trunk_is_counted_once() -> None:
    """Apart: 0.125 + 0.25 + 0.5 + 1 of a run. Shared: the trunk to 0.4, decays of 0.025, 0.05, 0.1, and a last 0.6."""
    recipe = load(SCALING, "slurm", [*ONE_RUN, ENDS])
    plans = plan_cells(recipe, cells(recipe))
    work = shared_work(plans)
    assert work is not None
    whole = 50 * 93_000_000
    assert work.points == 4
    assert work.crops == pytest.approx(1.175 * whole, rel=1e-4)
    assert work.crops_apart == pytest.approx(1.875 * whole, rel=1e-4)
    assert work.share == pytest.approx(1 - 1.175 / 1.875, abs=1e-4)
    assert work.gpu_hours / work.gpu_hours_apart == pytest.approx(1.175 / 1.875, rel=1e-4)
    apart = 0.0
    for end in (0.125, 0.25, 0.5, 1.0):
        alone = load(SCALING, "slurm", [*ONE_RUN, f"train.schedule={{name: warmup_stable_decay, ends: [{end}]}}"])
        (plan,) = plan_cells(alone, [cell for cell in cells(alone) if cell.training])
        same = next(other for other in plans if other.cell.id == plan.cell.id)
        assert same.flops == plan.flops
        apart += plan.gpu_hours
    assert work.gpu_hours_apart == pytest.approx(apart)


def test_the_plan_says_what_is_saved_in_crops_hours_and_money() -> None:
    recipe = load(SCALING, "slurm", [*ONE_RUN, ENDS])
    plans = plan_cells(recipe, cells(recipe))
    (line,) = [line for line in table(recipe, plans, wide=True).splitlines() if "as runs of their own" in line]
    assert "the same 4 trained points" in line
    assert "saved: 3.25G crops (37%)" in line
    assert "GPU hours, cost" in line
    assert "1 trained models × 1 datasets × 1 seeds × 4 ends" in table(recipe, plans)
    shared = json.loads(as_json(recipe, plans))["shared"]
    assert shared["share"] == pytest.approx(0.3733, abs=1e-4)


def test_snapshots_save_nothing_and_runs_apart_have_no_line() -> None:
    recipe = load(SCALING, "slurm", [*ONE_RUN, "train.snapshots=[0.1, 0.3]"])
    work = shared_work(plan_cells(recipe, cells(recipe)))
    assert work is not None
    assert work.share == pytest.approx(0.0, abs=1e-9)
    assert "as runs of their own" not in table(recipe, plan_cells(recipe, cells(recipe)))
    apart = load(SCALING, "slurm", ONE_RUN)
    plans = plan_cells(apart, cells(apart))
    assert shared_work(plans) is None
    assert "as runs of their own" not in table(apart, plans)


def test_a_continued_run_counts_the_crops_before_it() -> None:
    recipe = load(SCALING, "slurm", [*ONE_RUN, "grid.datasets=[rxrx3, rpi_52m]", "train.start_from={rpi_52m: rxrx3}"])
    first, second = [plan for plan in plan_cells(recipe, cells(recipe)) if plan.crops]
    assert (first.crops_before, second.crops_before) == (0, first.crops)
    alone = load(SCALING, "slurm", [*ONE_RUN, "grid.datasets=[rpi_52m]"])
    (fresh,) = [plan for plan in plan_cells(alone, cells(alone)) if plan.crops]
    assert second.gpu_hours == fresh.gpu_hours
    assert second.flops["touvron"] == pytest.approx(fresh.flops["touvron"] * (1 + first.crops / fresh.crops))


def test_ends_at_some_points_of_the_axes_are_no_negative_exclusions() -> None:
    """One cosine run, and one with two ends."""
    schedules = "grid.axes={train.schedule: [{name: one_cycle_cosine}, {name: warmup_stable_decay, ends: [0.5, 1.0]}]}"
    recipe = load(SCALING, "slurm", [*ONE_RUN, schedules])
    assert "\n3 trained cells\n" in table(recipe, plan_cells(recipe, cells(recipe)))
