"""The report's page for a real recipe: an unfinished study is shown as far as it is, with what to run next.

Covers `page`, `next_runs` and `reconstructions`. `model_card` also runs with every export in
tests/harness/test_export.py.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_cells import finished

from analysis.compute.flops import flops_per_crop
from analysis.fitting.trend import fit_sources
from harness.grid.cells import cells
from harness.models.architecture import cost_of
from harness.plan.cost import training_images
from harness.recipe.fields import per_name
from harness.recipe.load import load
from harness.report.frontier import RECALL, allocations
from harness.report.page.data import _source_fit
from harness.report.points import points
from harness.report.write import report
from harness.sweep import main

RECIPE = Path(__file__).parents[4] / "recipes" / "scaling.yaml"


def test_a_law_s_sentence_says_how_much_models_scatter() -> None:
    models = np.repeat(np.arange(5), 3)
    compute = 1e12 * np.geomspace(1, 100, 5)[models] * np.tile([1.0, 5.0, 25.0], 5)
    noise = np.random.default_rng(0).normal(size=20)
    recall = 0.1 + 0.02 * np.log10(compute) + 0.03 * noise[models] + 0.002 * noise[5:]
    names = [f"vit_{model}" for model in models]
    runs = pd.DataFrame(
        {"source": "CORUM", "trained": True, "compute": compute, "recall": recall, "model": names, "crops": 1e6}
    )
    shown = _source_fit(fit_sources(runs, "touvron")[0], runs, 0)
    told = re.search(r"15 runs of 5 models; standard deviation (\S+) between models, (\S+) within", shown.answer)
    assert told is not None
    assert 0.01 < float(told[1]) < 0.08
    assert 0.001 < float(told[2]) < 0.004
    assert [check["check"] for check in shown.checks].count("architectures") == 1


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The paper's study with one data set done, five models of it, and the baselines; its report is written."""
    recipe = load(RECIPE, "slurm", [f"output={tmp_path_factory.mktemp('half')}"])
    grid = cells(recipe)
    done = [cell for cell in grid if cell.dataset == "rxrx3"][:5]
    for number, cell in enumerate([*done, *(cell for cell in grid if cell.kind != "trained")]):
        finished(recipe, cell, 0.2 + 0.03 * number + 0.004 * (number % 2))
    return recipe, {path.name for path in report(recipe)}


@pytest.mark.slow
def test_a_half_finished_study_is_shown_as_far_as_it_is(half):
    recipe, written = half
    assert {"report.html", "points.parquet", "recall.tex", "recall_versus_compute.pdf"} <= written
    text = (recipe.output / "report" / "report.html").read_text()
    everything = cells(recipe)
    undone = len(everything) - 5 - sum(cell.kind != "trained" for cell in everything)
    assert f"{undone} of {len(everything)} cells {'is' if undone == 1 else 'are'} not finished" in text
    for convention in ("touvron", "dense_forward", "mae_train"):
        assert f'data-convention="{convention}"' in text
    assert "per decade of compute" in text
    assert "two factors" in text
    assert "What to run next" in text
    assert text.count("data:image/jpeg;base64,") == 5  # a crop of every cell that reconstructs
    cost = dict(re.findall(r"<tr><td>([^<]+)</td>(.*?)</tr>", text[text.index('id="cost"') :]))
    hours = re.findall(r'data-value="([^"]*)"', cost["all"])
    # five cells: an hour of training on so many nodes of 8 GPUs
    gpus = sum(per_name(recipe.launch.nodes, cell.model) * 8 for cell in everything if cell.dataset == "rxrx3")
    assert 5 * 8 <= float(hours[4]) < gpus
    assert float(hours[6]) == pytest.approx(2 * float(hours[4]))  # the cost on an A100
    links = re.findall(r'href="(\.\./[^"]+)"', text)
    assert len(links) == 5
    assert all((recipe.output / "report" / link).resolve().exists() for link in links)


@pytest.mark.slow
def test_numbers_of_every_convention_reach_the_page(half):
    recipe, _ = half
    text = (recipe.output / "report" / "report.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="study">(.*?)</script>', text, re.S)[1])
    trained = [point for point in data["points"] if point["trained"] and point["source"] == "CORUM"]
    assert len(trained) == 5
    small = next(point for point in trained if point["model"] == "vit_s16")
    assert small["compute"]["touvron"] == pytest.approx(4.6e9 * 1.69 * 1e7)
    assert set(small["compute"]) == set(data["fits"]) == {"touvron", "dense_forward", "mae_train"}
    assert len(data["curves"]) == 5
    losses = data["frontier"]["touvron"]["y"]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.slow
def test_a_study_whose_two_factors_vary_says_how_to_split_compute(tmp_path):
    """A known law of cost per crop and crops: the page's exponents hold it, under the convention it is a law of."""
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}"])
    grid = [cell for cell in cells(recipe) if cell.kind == "trained"]
    rng = np.random.default_rng(0)
    for cell in grid:
        crops, cost = training_images(recipe, cell.dataset), flops_per_crop("mae_train", cost_of(cell.architecture))
        lacks = 0.2 + 0.3 * (cost / 1e10) ** -0.3 + 0.3 * (crops / 1e5) ** -0.2
        finished(recipe, cell, 1 - lacks * np.exp(0.002 * rng.normal()), crops)
    tables = {"mae_train": points(recipe, grid, "mae_train")}
    found = {one.metric: one for one in allocations(recipe, grid, tables)["mae_train"]}
    assert set(found) == {"recall, mean over sources", "validation loss, patch 8", "validation loss, patch 16"}
    low, high = map(float, re.search(r"compute to the \S+ \[(\S+), (\S+)\], crops", found[RECALL].answer).groups())
    assert low < 0.2 / 0.5 < high < low + 0.2


@pytest.mark.slow
def test_plan_next_buys_within_the_budget(half, capsys):
    recipe, _ = half
    words = [f"output={recipe.output}", "--profile", "slurm", "--json"]
    assert main(["plan", str(RECIPE), *words, "--next", "3", "--budget", "5000", "--target", "1e22"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 1 <= len(found["buy"]) <= 3
    assert sum(one["gpu_hours"] for one in found["buy"]) <= 5000
    assert all(one["after"] < one["before"] for one in found["buy"])
    evaluated = {path.parent.name for path in recipe.output.glob("ledger/*/evaluate.json")}
    assert not {one["cell"] for one in found["buy"] + found["drop"]} & evaluated


def test_nothing_is_designed_from_no_runs(tmp_path, capsys):
    words = [f"output={tmp_path}", "--profile", "slurm"]
    assert main(["plan", str(RECIPE), *words, "--next", "3"]) == 2
    assert "0 trained cells are evaluated, at 0 distinct computes" in capsys.readouterr().err


def test_a_study_that_has_not_begun_has_a_page(tmp_path):
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}"])
    report(recipe)
    assert "Too few trained cells for a law" in (tmp_path / "report" / "report.html").read_text()
