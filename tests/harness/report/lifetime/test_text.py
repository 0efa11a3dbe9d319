"""Lifetime frontiers as text and JSON, by the command line too."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from lifetime_study import GRID, RECIPE, finished_study, unfinished

from analysis.design.life import ModelTurn
from harness import sweep
from harness.recipe.schema import Recipe
from harness.report.lifetime.frontiers import Goal, lifetimes
from harness.report.lifetime.text import as_json, models, summary, text


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return finished_study(tmp_path_factory.mktemp("study"))


def test_money_is_hours_at_the_recipe_s_price(study: Recipe) -> None:
    values = json.loads(as_json(lifetimes(study, [2.2e6], Goal(recall=0.58)), study))
    assert values["price_per_hour"] == study.hardware.gpu_type.price_per_hour
    hours = values["frontiers"][0]["units"]["GPU hours"]["total"][0]
    shown = text(lifetimes(study, [2.2e6], Goal(recall=0.58)), study)
    assert f"{hours * values['price_per_hour']:,.0f}" in shown


def test_a_metric_out_of_reach_is_null_and_named(study: Recipe) -> None:
    found = lifetimes(study, [0.0], Goal(recall=0.9))
    values = json.loads(as_json(found, study))
    assert values["frontiers"][0]["units"]["FLOPs"]["size"] == [None]
    assert "of the study's models, by FLOPs: none reaches it" in text(found, study)
    assert "of resampled laws do not reach it at any size" in text(found, study)


def test_turns_in_words() -> None:
    turns = [ModelTurn("L", 0, 0, 0), ModelTurn("B", 3.1e6, 1e6, math.inf)]
    assert models(turns) == "L; from 3.1M [1M, unlimited] wells on B"
    assert models([]) == "none reaches it"


def test_the_plan_s_lines_name_every_metric(study: Recipe, tmp_path: Path) -> None:
    lines = summary(study)
    assert len(lines) == 5  # a head; recall and loss of two patch sizes
    assert all("for 22,000,000 wells, by GPU hours; of the study's models " in line for line in lines[1:])
    assert "not enough to tell" in summary(unfinished(tmp_path))[1]


@pytest.mark.slow
def test_the_verb_and_the_plan_print_the_frontier(study: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    same = [str(RECIPE), "--profile", "slurm", f"output={study.output}", *GRID]
    assert sweep.main(["frontier", *same, "--screens", "3", "--wells", "1e6", "--recall", "0.58"]) == 0
    out = capsys.readouterr().out
    assert "recall, mean over sources of patch 8: 0.58, as asked" in out
    assert "3,000,000" in out
    sweep.main(["plan", *same])
    assert "best size over a life" in capsys.readouterr().out
    assert sweep.main(["frontier", *same, "--screens", "0"]) == 2
    assert "--screens 0" in capsys.readouterr().err
