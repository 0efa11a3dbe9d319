"""Covers `narrow_table`: a plan in 100 columns, by model."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.grid.cells import cells
from harness.plan.cost import plan_cells
from harness.plan.narrow_table import COLUMNS, folded, narrow_table
from harness.plan.table import table
from harness.recipe.load import load

SCALING = Path("recipes/scaling.yaml")


def test_rows_stand_below_their_model_without_empty_columns() -> None:
    rows = [
        {"cell": "small-a-s0", "steps": "10", "GPUs": "", "hours": "0.00"},
        {"cell": "large-a-s0", "steps": "20", "GPUs": "", "hours": "0.0"},
        {"cell": "small-b-s0", "steps": "1000", "GPUs": "", "hours": "0"},
    ]
    assert narrow_table(rows, ["small", "large", "small"]).split("\n") == [
        "cell    steps",
        "small",
        "  a-s0     10",
        "  b-s0   1000",
        "large",
        "  a-s0     20",
    ]
    assert narrow_table([], []) == ""


def test_columns_that_do_not_fit_are_left_out_in_order() -> None:
    row = {"cell": "m-" + "a" * 70, "steps": "1" * 10, "net%": "2" * 10, "engine": "ddp", "hours": "3"}
    heads = narrow_table([row], ["m"]).split("\n")[0].split()
    assert heads == ["cell", "steps", "engine", "hours"]


def test_long_lines_are_folded_and_their_rest_is_indented() -> None:
    words = "  " + " ".join(["word"] * 50)
    first, second, third = folded([words])
    assert first.startswith("  word")
    assert second.startswith("    word")
    assert max(map(len, (first, second, third))) <= COLUMNS
    assert " ".join(" ".join((first, second, third)).split()) == words.strip()


@pytest.mark.parametrize("profile", ["laptop", "slurm"])
@pytest.mark.parametrize("name", ["scaling", "scaling_annealed", "table6"])
def test_the_shipped_recipes_fit(name: str, profile: str) -> None:
    recipe = load(Path(f"recipes/{name}.yaml"), profile)
    text = table(recipe, plan_cells(recipe, cells(recipe)))
    assert max(map(len, text.split("\n"))) <= COLUMNS
    heads = text.split("\n")[0].split()
    assert ("GPU" in heads) == (profile == "slurm")


def test_a_laptop_s_plan_names_no_hardware() -> None:
    recipe = load(SCALING, "laptop")
    heads = table(recipe, plan_cells(recipe, cells(recipe))).split("\n")[0].split()
    assert heads == ["cell", "params", "crops", "steps", "touvron"]
