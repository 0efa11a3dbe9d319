"""Axes and variants: their points, the recipe at a point, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.recipe.axes import Point, at_point, axis_names, point_name, points
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.schema import Grid, Recipe

SCALING = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
AXES = "grid.axes={mae.mask_ratio: [0.5, 0.75], train.learning_rate: [1e-4, 2e-4, 4e-4]}"
VARIANTS = "grid.variants={lion: {}, adamw: {train.optimiser.name: adamw, train.optimiser.weight_decay: 0.1}}"


def recipe(*overrides: str) -> Recipe:
    return load(SCALING, "slurm", list(overrides))


def test_points_are_the_product_of_variants_and_axes() -> None:
    grid = recipe(AXES, VARIANTS).grid
    found = list(points(grid))
    assert len(found) == grid.point_count == 12
    assert found[0] == Point("lion", (("mae.mask_ratio", 0.5), ("train.learning_rate", 1e-4)))
    assert found[-1].coordinates() == {"variant": "adamw", "mae.mask_ratio": 0.75, "train.learning_rate": 4e-4}
    assert axis_names(grid) == ["variant", "mae.mask_ratio", "train.learning_rate"]
    assert list(points(recipe().grid)) == [Point()]


def test_the_recipe_at_a_point_has_its_values_and_no_axes() -> None:
    study = recipe(AXES, VARIANTS)
    there = at_point(study, list(points(study.grid))[-1])
    assert (there.mae.mask_ratio, there.train.learning_rate) == (0.75, 4e-4)
    assert (there.train.optimiser.name, there.train.optimiser.weight_decay) == ("adamw", 0.1)
    assert (there.grid.axes, there.grid.variants) == ({}, {})
    assert there.train.optimiser.betas == study.train.optimiser.betas  # what a variant does not set stays
    assert at_point(study, Point()) is study


def test_a_point_in_words() -> None:
    place = {"variant": "lion", "mae.mask_ratio": 0.5, "train.schedule.warmup": None}
    assert point_name(place) == "lion, mask_ratio=0.5"
    assert point_name({"models.a.depth": 2, "models.b.depth": 3}) == "models.a.depth=2, models.b.depth=3"
    assert point_name({}) == ""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grid.axes={mae.maskratio: [0.5]}", r"grid\.axes\.mae\.maskratio: .*is not a field of a recipe"),
        ("grid.axes={mae.mask_ratio: [0.5, 2]}", r"grid\.axes\.mae\.mask_ratio: .*less than 1 \(got 2\)"),
        ("grid.axes={mae.mask_ratio: [0.5, 0.5]}", "gives one of its values twice"),
        ("grid.axes={mae.mask_ratio: []}", "at least 1 item"),
        ("grid.axes={launch.nodes: [1, 2]}", "cannot be varied: `launch` changes no result"),
        ("grid.axes={embed.pool: [mean, class]}", "changes what is done with a trained cell"),
        ("grid.axes={grid.seeds: [[0]]}", "holds the axes themselves"),
        ("grid.axes={epochs: [1]}", "grid.axes"),
        ("grid.axes={models.vit_s99.depth: [1]}", r"models\.vit_s99 is not a section"),
        ("grid.axes={models.vit_s8.heads: [6, 7]}", "384 is not a multiple of heads 7"),
        ("grid.variants={a: {mae.width: 3}}", r"grid\.variants\.a: .*mae\.width"),
        ("grid.variants={a: {hardware.mfu: 0.5}}", "cannot be varied"),
        ("grid.exclude=[{depth: 1}]", "is not an axis of this grid; known: model, dataset, seed"),
        ("grid.exclude=[{seed: 5}]", "5 is not on this axis; it has"),
        ("grid.exclude=[{}]", "names nothing"),
        ("grid.exclude=[{model: vit_s99}]", "'vit_s99' is not known; did you mean"),
        ("grid.seeds=[" + ", ".join(map(str, range(9000))) + "]", "cells; permitted"),
    ],
)
def test_what_cannot_be_varied_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(override)


def test_a_field_on_two_axes_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"variants\.a\.train\.optimiser\.name: is also set by the axis train\.optim"):
        recipe("grid.axes={train.optimiser: [{name: lion}]}", "grid.variants={a: {train.optimiser.name: adamw}}")


def test_too_many_points_are_refused_before_any_is_made() -> None:
    axes = ", ".join(f"mae.x{n}: {list(range(100))}" for n in range(9))
    with pytest.raises(RecipeError, match=r"points of the axes are up to [\d,]{20,} cells"):
        recipe(f"grid.axes={{{axes}}}")


@given(st.lists(st.integers(1, 5), max_size=4), st.integers(0, 3))
def test_there_are_as_many_points_as_are_counted(sizes: list[int], variants: int) -> None:
    grid = Grid(models=["m"], datasets=["d"], axes={f"mae.a{n}": list(range(size)) for n, size in enumerate(sizes)},
                variants={f"v{n}": {} for n in range(variants)})  # fmt: skip
    found = list(points(grid))
    assert len(found) == len(set(found)) == grid.point_count
