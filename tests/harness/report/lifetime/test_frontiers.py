"""Lifetime frontiers of a study: against brute force over its models and sizes, units, and what is not enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from finished_cells import finished
from lifetime_study import finished_study, miss, unfinished

from analysis.compute.flops import dense_forward, mae_train, touvron
from harness.grid.cells import cells
from harness.models.architecture import cost_of
from harness.plan.cost import plan_cells
from harness.recipe.schema import Recipe
from harness.report.lifetime.frontiers import FLOPS, HOURS, Goal, lifetimes, lives

SCREEN = 2.2e6  # wells of RxRx3
RECALL_8 = "recall, mean over sources of patch 8"
WANTED = 0.58


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return finished_study(tmp_path_factory.mktemp("study"))


def systems(recipe: Recipe, patch: str):
    """Cost model of each of the study's models of a patch size."""
    grid = [cell for cell in cells(recipe) if cell.architecture is not None]
    return {cell.model: cost_of(cell.architecture) for cell in grid if cell.model.endswith(patch)}


def crops_for(cost: float) -> float:
    """Crops with which a size reaches the wanted recall by the true law, from its formula."""
    rest = 1 - WANTED - 0.3 - 0.25 * (cost / 1e10) ** -0.35
    return 1e7 * (0.25 / rest) ** (1 / 0.3) if rest > 0 else np.inf


def along(at, x, y):
    """Linear interpolation, continued with the slope of the last two."""
    beyond = np.maximum(at - x[-1], 0.0)
    return np.interp(at, x, y) + beyond * (y[-1] - y[-2]) / (x[-1] - x[-2])


def test_the_cheapest_of_the_study_s_models_is_that_of_brute_force(study: Recipe) -> None:
    found = {one.name: one for one in lifetimes(study, [0, SCREEN], Goal(recall=WANTED))}[RECALL_8]
    turns = found.units[0].turns
    assert found.units[0].unit == FLOPS
    assert len(turns) >= 2
    for wells in (0.0, 1e6, 1e7, 1e8, 1e9, 1e10):
        total = {
            model: mae_train(system) * crops_for(touvron(system)) + 2 * dense_forward(system) * 64 * wells
            for model, system in systems(study, "8").items()
        }
        by_turns = [turn.model for turn in turns if turn.crops <= wells][-1]
        assert total[by_turns] <= 1.02 * min(total.values())


def test_the_best_size_is_that_of_brute_force_between_the_models(study: Recipe) -> None:
    wells = (0.0, SCREEN, 100 * SCREEN)
    found = {one.name: one for one in lifetimes(study, wells, Goal(recall=WANTED))}[RECALL_8]
    models = sorted(systems(study, "8").values(), key=touvron)
    sizes, train, embed = (np.log([cost(model) for model in models]) for cost in (touvron, mae_train, dense_forward))
    trial = np.linspace(sizes[0], sizes[-1] + 4, 4001)  # above the largest model costs are continued
    crops = np.array([crops_for(float(np.exp(size))) for size in trial])
    for index, count in enumerate(wells):
        training, embedding = np.exp(along(trial, sizes, train)) * crops, 2 * np.exp(along(trial, sizes, embed)) * 64
        total = training + embedding * count
        best = float(np.exp(trial[np.argmin(total)]))
        assert found.units[0].life.size.value[index] == pytest.approx(best, rel=0.1)  # the law is fitted to noisy runs
        assert found.units[0].life.total.value[index] == pytest.approx(float(total.min()), rel=0.05)


def test_hours_are_those_of_the_plan_and_flops_those_of_the_conventions(study: Recipe) -> None:
    """Embedding RxRx3 with ViT-L/8 costs 302 GPU hours; the plan's training hours are per crop."""
    life = {one.name: one for one in lifetimes(study, [SCREEN], Goal(recall=WANTED))}[RECALL_8]
    in_flops, in_hours = (unit.life for unit in life.units)
    assert [unit.unit for unit in life.units] == [FLOPS, HOURS]
    size = in_hours.size.value[0]
    of_patch = {plan.cell.model: plan for plan in plan_cells(study, cells(study)) if plan.cell.model.endswith("8")}
    plans = sorted(of_patch.values(), key=lambda plan: plan.parameters)
    at = np.log([plan.flops["touvron"] / plan.crops for plan in plans])
    embed = float(np.exp(along(np.log(size), at, np.log([plan.embed_hours or np.nan for plan in plans]))))
    assert in_hours.embed[0] == pytest.approx(embed, rel=1e-3)
    assert max(plan.embed_hours or 0 for plan in plans) == pytest.approx(302, abs=1)
    # one share of the peak for all: FLOPs and hours agree on the best size
    assert in_flops.size.value[0] == pytest.approx(size, rel=0.02)
    assert in_flops.total.value[0] / in_hours.total.value[0] / 3600 == pytest.approx(0.3 * 312e12, rel=0.02)


@pytest.mark.slow
def test_the_best_for_a_budget_costs_the_budget(study: Recipe) -> None:
    for one in lifetimes(study, [0.0, SCREEN], Goal(budget=3000)):
        (unit,) = one.units
        assert unit.unit == HOURS
        assert unit.life.total.value == pytest.approx([3000, 3000], rel=1e-4)
        better = unit.life.metric.value[0] - unit.life.metric.value[1]
        assert better > 0 if one.name.startswith("recall") else better < 0


def test_a_budget_without_gpus_is_refused(tmp_path: Path) -> None:
    recipe = unfinished(tmp_path, profile="laptop")
    with pytest.raises(ValueError, match=r"a budget is in GPU hours, and this recipe has no GPUs"):
        lifetimes(recipe, [0.0], Goal(budget=10))


def test_too_few_runs_are_not_enough_to_tell(tmp_path: Path) -> None:
    recipe = unfinished(tmp_path)
    (nothing,) = lifetimes(recipe, [0.0])
    assert nothing.lacking.startswith("not enough to tell: 0 finished runs at 0 costs per crop")
    for plan in plan_cells(recipe, cells(recipe))[:4]:
        finished(recipe, plan.cell, 0.4, plan.crops, annealed=True)
    (few,) = lifetimes(recipe, [0.0])
    assert "4 finished runs at 4 costs per crop and 1 number of crops seen; 7 runs that differ" in few.lacking


def test_a_law_that_is_not_identified_says_which_runs_would_tell(tmp_path: Path) -> None:
    """Recall that depends on crops alone leaves the exponent of size open."""
    recipe, rng = unfinished(tmp_path), np.random.default_rng(1)
    for plan in plan_cells(recipe, cells(recipe)):
        recall = 1 - miss(1e30, plan.crops) * float(np.exp(0.003 * rng.normal()))
        finished(recipe, plan.cell, recall, plan.crops, annealed=True)
    found = lifetimes(recipe, [0.0])
    assert any("alpha" in one.lacking and "runs of models farther apart in cost" in one.lacking for one in found)


def test_hours_that_fall_with_size_have_no_best_size(study: Recipe) -> None:
    shares = "hardware.mfu={vit_s16: 0.01, vit_b16: 0.3, vit_l16: 0.3, vit_s8: 0.3, vit_b8: 0.3, vit_l8: 0.3}"
    found = {one.name: one for one in lifetimes(unfinished(study.output, shares), [0.0])}
    assert found["recall, mean over sources of patch 16"].lacking == (
        "a crop costs less at a larger size, so no size is best"
    )
    assert found[RECALL_8].units


def test_lives_run_from_no_screen_to_all(study: Recipe, tmp_path: Path) -> None:
    assert lives(16, 1e5, study) == [0.0, 1e5, 2e5, 4e5, 8e5, 16e5]
    assert lives(1, None, study) == [0.0, SCREEN]
    with pytest.raises(ValueError, match="--screens 0 and --wells 100000 must be positive"):
        lives(0, 1e5, study)
    unknown = unfinished(tmp_path, "embed.shards=/nowhere")
    with pytest.raises(ValueError, match="name it with --wells"):
        lives(3, None, unknown)
