"""Covers `model_card`; tests/harness/test_export.py covers the cards of exported cells."""

from pathlib import Path

from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.model_card import model_card


def cell_of(recipe: Recipe, kind: str) -> Cell:
    return next(cell for cell in cells(recipe) if cell.kind == kind and cell.model == "vit_b8")


def test_the_card_of_a_trained_cell_has_its_training(tiny_recipe: Recipe) -> None:
    cell = cell_of(tiny_recipe, "trained")
    values = {"wells": 16, "experiments": ["a", "b"], "crops": 1920, "steps": 240, "validation_loss": 0.51234}
    card = model_card(tiny_recipe, cell, values, None, ["DNA", "a|b"], blocks=2)
    assert "| crops seen | 1,920 in 240 steps |" in card
    assert "16 images of 2 experiments" in card
    assert "| validation loss | 0.5123 |" in card
    assert "| channels, in order | DNA, a\\|b |" in card
    assert "width 24, depth 2, heads 2" in card
    assert "Not evaluated" in card


def test_names_are_shown_as_they_are(tiny_recipe: Recipe) -> None:
    channels = ["<script>", "[x](y)", "a|b", "*a*", "_a_", "a_b", "`c`", "new\nline", "![i](j)", "c\\d"]
    recall = {"recall": 0.5, "recall_low": None, "recall_high": None, "chance": 0.1, "pairs": 9}
    evaluated = {"protocol": "p_q/1", "correction": "tvn", "genes": 5, "recall": {"a|b\n<i>": recall}}
    card = model_card(tiny_recipe, cell_of(tiny_recipe, "trained"), {}, evaluated, channels, blocks=2)
    shown = r"\<script\>, \[x\](y), a\|b, \*a\*, \_a\_, a_b, \`c\`, new line, \!\[i\](j), c\\d"
    assert f"| channels, in order | {shown} |" in card
    assert r"| a\|b \<i\> | 0.500 | – | 0.10 | 9 |" in card
    assert "Recall of known relationships, p_q/1, correction tvn, 5 genes" in card


def test_the_card_says_that_training_stopped_early(tiny_recipe: Recipe) -> None:
    values = {"crops": 80, "steps": 10, "planned_steps": 48, "annealed": False}
    card = model_card(tiny_recipe, cell_of(tiny_recipe, "trained"), values, None, [], blocks=2)
    assert "| crops seen | 80 in 10 steps of 48 planned: stopped before the learning rate had decayed |" in card


def test_the_card_of_an_untrained_cell_says_so(tiny_recipe: Recipe) -> None:
    card = model_card(tiny_recipe, cell_of(tiny_recipe, "untrained"), {}, None, [], blocks=1)
    assert "None: these are initial weights, a baseline." in card
    assert "depth 1, cut from 2" in card
    assert "those of the shards it was trained on" in card


def test_the_card_of_a_state_of_a_longer_run_and_of_a_continued_one_say_so(tiny_recipe_file: Path) -> None:
    continued = ["grid.datasets=[one, two]", "train.start_from={two: one}", "train.snapshots=[0.5]"]
    recipe = load(tiny_recipe_file, "laptop", continued)
    values = {"crops": 80, "steps": 10, "planned_steps": 10, "annealed": False, "best_validation_loss": None}
    card = model_card(recipe, cell_of(recipe, "segment"), values, None, [], blocks=2)
    assert "| crops seen | 80 in 10 steps: a state of a longer run, whose learning rate had not decayed |" in card
    assert "begins with" not in card
    pretrained, final = [cell for cell in cells(recipe) if cell.kind == "trained" and cell.model == "vit_b8"]
    card = model_card(recipe, final, values, None, [], blocks=2)
    assert f"| begins with | the final state of `{pretrained.id}`, whose crops are counted too |" in card
