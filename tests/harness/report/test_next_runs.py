"""Covers `next_runs` on a grid with axes; tests/harness/report/page/test_data.py has it on the paper's study."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from finished_cells import finished

from harness.grid.cells import cells
from harness.plan.cost import plan_cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.next_runs import _with_their_segments, as_json, propose, text

RECIPE = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
GRID = ["grid.models=[vit_s16, vit_b16, vit_l16]", "grid.datasets=[rxrx1, rxrx3, rpi_52m]", "grid.untrained=false",
        "grid.pixel_statistics=false"]  # fmt: skip
AXIS = "grid.axes={mae.mask_ratio: [0.5, 0.75, 0.9]}"
NOISE = (0.01, -0.012, 0.004, 0.009, -0.006)


@pytest.fixture
def study(tmp_path: Path) -> Recipe:
    """Five evaluated cells at each of two points, and one at the third."""
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *GRID, AXIS])
    plans = {plan.cell.id: plan for plan in plan_cells(recipe, cells(recipe))}
    for ratio, count in ((0.5, 5), (0.75, 5), (0.9, 1)):
        here = [cell for cell in cells(recipe) if cell.labels()["mae.mask_ratio"] == ratio]
        here.sort(key=lambda cell: plans[cell.id].flops["touvron"])
        for cell, noise in zip(here[:count], NOISE, strict=False):
            plan = plans[cell.id]
            recall = 0.2 + 0.03 * math.log10(plan.flops["touvron"] / 1e16) + noise * (2 if ratio == 0.5 else 1)
            finished(recipe, cell, recall, plan.crops, annealed=True)
    return recipe


def test_runs_are_proposed_at_the_points_that_have_a_law_and_the_others_are_named(study: Recipe) -> None:
    proposal = propose(study, count=4, budget=math.inf)
    assert 1 <= len(proposal.buy) <= 4
    open_at = {cell.id: cell.labels()["mae.mask_ratio"] for cell in cells(study)}
    assert {open_at[run.candidate.name] for run in proposal.buy} <= {0.5, 0.75}
    assert {proposal.places[run.candidate.name] for run in proposal.buy} <= {"mask_ratio=0.5", "mask_ratio=0.75"}
    assert all(run.after < run.before for run in proposal.buy)
    (note,) = proposal.notes
    assert note.startswith("mask_ratio=0.9: 1 trained cells are evaluated, at 1 distinct computes")
    assert f"nothing is proposed at {note}" in text(proposal)
    bought = next(line for line in text(proposal).splitlines() if proposal.buy[0].candidate.name in line)
    assert "mask_ratio=0" in bought
    assert json.loads(as_json(proposal))["buy"][0]["axes"].startswith("mask_ratio=")


def test_the_text_says_why_a_run_is_proposed_and_what_the_runs_leave_open(study: Recipe) -> None:
    proposal = propose(study, count=4, budget=math.inf)
    lines = text(proposal).splitlines()
    assert lines[0].startswith("mask_ratio=0.5: the finished runs fit laws with exponents from 0.0")
    assert "ceilings that leave" in lines[0]
    for run in proposal.buy:
        (line,) = [line for line in lines if line.strip().startswith(run.candidate.name) and "→" in line]
        assert line.endswith({"range": "for the range: no run is near", "narrowing": "to narrow"}[run.purpose])
    values = json.loads(as_json(proposal))
    assert values["unsettled"] == list(proposal.unsettled)
    assert [run["purpose"] for run in values["buy"]] == [run.purpose for run in proposal.buy]


def test_both_count_and_budget_are_for_all_points_together(study: Recipe) -> None:
    everything = propose(study, count=8, budget=math.inf).buy
    hours = sorted(run.candidate.hours for run in everything)
    some = propose(study, count=8, budget=hours[0] + hours[1]).buy
    assert sum(run.candidate.hours for run in some) <= hours[0] + hours[1]
    assert len(propose(study, count=1, budget=math.inf).buy) == 1


def test_without_a_law_at_any_point_every_point_says_why(tmp_path: Path) -> None:
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *GRID, AXIS])
    with pytest.raises(ValueError, match=r"mask_ratio=0\.5: 0 trained cells .*; mask_ratio=0\.75: 0 trained"):
        propose(recipe, count=1, budget=math.inf)


def test_a_branch_costs_what_is_not_trained_of_its_trunk(tmp_path: Path) -> None:
    """The end at 1 trains 0.6 of a run itself; the trunk before it, 0.4, is charged until it is trained."""
    ends = "train.schedule={name: warmup_stable_decay, ends: [0.125, 0.25, 0.5, 1.0]}"
    one_run = ["grid.models=[vit_s16]", "grid.datasets=[rxrx3]", "train.early_stopping=null"]
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *GRID, *one_run, ends])
    grid = cells(recipe)
    plans = plan_cells(recipe, grid)

    def hours() -> float:
        return next(plan.gpu_hours for plan in _with_their_segments(recipe, plans) if "end1" in plan.cell.id)

    alone = hours()
    for cell in grid[:3]:
        finished(recipe, cell, 0.5, 1, annealed=False)
    assert hours() == pytest.approx(0.6 * alone, rel=1e-3)
    assert len(_with_their_segments(recipe, plans)) == 4
