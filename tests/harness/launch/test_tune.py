"""Covers `tune`: the sweep is extended from an edge, its result is said again, and pasting its lines loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from finished_cells import finished

from analysis.design.rates.table import sweeps
from analysis.laws.metric import Metric
from harness import sweep
from harness.grid.cells import cells
from harness.launch.tune import MOST_EXTENSIONS, advice, further, paste, tune
from harness.plan.tuning import Spread
from harness.recipe.load import load
from harness.recipe.schema import Recipe

RECIPE = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
GRID = ["grid.models=[vit_l16, vit_s16, vit_b16]", "grid.datasets=[rxrx3, rxrx1]"]
Runs = list[list[float]]


def study(folder: Path, *overrides: str) -> Recipe:
    return load(RECIPE, "slurm", [f"output={folder}", *GRID, *overrides])


def trained(best: float, runs: Runs) -> object:
    """Stands in for training: every missing cell of a recipe gets the loss of a parabola around the best rate."""

    def run(recipe: Recipe) -> int:
        grid = cells(recipe)
        runs.append([cell.training.learning_rate for cell in grid if cell.training])
        for cell in grid:
            assert cell.training is not None
            if not (recipe.output / "ledger" / cell.id).exists():
                away = np.log(cell.training.learning_rate / best)
                finished(recipe, cell, 1 - 0.5 * float(np.exp(0.02 * away**2)), annealed=True)
        return 0

    return run


def test_the_best_rate_is_found_and_said_again_without_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, runs = study(tmp_path), Runs()
    assert tune(recipe, Spread(), False, trained(1.5e-4, runs)) == 0
    first = capsys.readouterr().out
    assert runs == [[2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4]]
    assert "learning rates of vit_s16 on rxrx1, 66 epochs of 2,022 steps in all" in first
    assert "vit_s16: best rate 0.00015" in first
    written = load(tmp_path / "tune" / "vit_s16" / "recipe.yaml", "slurm")
    assert [cell.training.learning_rate for cell in cells(written) if cell.training] == runs[0]
    assert written.output == tmp_path / "tune" / "vit_s16"
    assert "does not transfer to other sizes: this is the rate of vit_s16 alone" in first
    assert tune(recipe, Spread(), False, trained(1.5e-4, runs)) == 0
    again = capsys.readouterr().out
    assert again.splitlines() == [line for line in first.splitlines() if not line.startswith("the sweep is a study")]
    assert len(runs) == 1
    assert (tmp_path / "tune" / "vit_s16" / "ledger").exists()


@pytest.mark.parametrize(("best", "extensions"), [(1.2e-5, 1), (2e-3, 2)], ids=["below", "above"])
def test_a_sweep_whose_best_rate_is_at_an_edge_is_extended_there(tmp_path: Path, best: float, extensions: int) -> None:
    runs = Runs()
    assert tune(study(tmp_path), Spread(), False, trained(best, runs)) == 0
    assert len(runs) == 1 + extensions
    assert len(runs[-1]) == 5 + 2 * extensions


def test_extensions_are_bounded_and_nothing_is_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = Runs()
    assert tune(study(tmp_path), Spread(3, 1.0), False, trained(1e-9, runs)) == 1
    assert len(runs) == 1 + MOST_EXTENSIONS
    said = capsys.readouterr().out
    assert "no learning rate is proposed: after 11 rates the sweep shows no optimum" in said
    assert "learning_rate:" not in said


def test_a_sweep_that_has_not_run_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(study(tmp_path), Spread(), False, lambda _: 0) == 0
    assert "5 cells are not trained yet; the same command goes on from there" in capsys.readouterr().out
    local = study(tmp_path / "local", "launch.executor=local")
    assert tune(local, Spread(), False, lambda _: 1) == 1


def test_each_sweeps_every_size_from_the_rate_of_the_one_before(tmp_path: Path) -> None:
    runs = Runs()
    assert tune(study(tmp_path), Spread(), True, trained(1.5e-4, runs)) == 0
    assert [rates[2] for rates in runs] == [1e-4, 1.5e-4, 1.5e-4]
    assert {path.name for path in (tmp_path / "tune").iterdir()} == {"vit_s16", "vit_b16", "vit_l16"}


def test_noise_that_hides_the_optimum_is_met_with_another_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Losses that fall slowly and rise steeply are no parabola through five rates; repeats show it is no noise."""
    runs: list[int] = []
    losses = dict(zip((2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4), (0.9933, 0.9878, 0.9824, 0.9740, 1.0006), strict=True))

    def run(recipe: Recipe) -> int:
        runs.append(len(recipe.grid.seeds))
        for cell in cells(recipe):
            assert cell.training is not None
            if not (recipe.output / "ledger" / cell.id).exists():
                finished(recipe, cell, 1 - losses[cell.training.learning_rate] - 1e-4 * cell.seed, annealed=True)
        return 0

    assert tune(study(tmp_path), Spread(), False, run) == 0
    assert runs == [1, 2]
    assert "extended by another seed" in capsys.readouterr().out


RATES = 1e-4 * 2.0 ** np.arange(5)


@pytest.mark.parametrize(
    ("losses", "more"),
    [
        ([1.4, 1.1, 1, 1.1, 1.4], []),
        ([3, 2, 1, 2, 3], []),
        ([1, 2, 3, 4, 5], [5e-5, 2.5e-5]),
        ([5, 4, 3, 2, 1], [3.2e-3, 6.4e-3]),
        ([3, 2, 1, np.nan, np.nan], [2.83e-4, 5.66e-4]),
        ([1, np.nan, np.nan, np.nan, np.nan], [5e-5, 2.5e-5]),
    ],
    ids=["inside", "no-parabola", "lowest", "highest", "diverged", "all-but-one-diverged"],
)
def test_what_a_sweep_lacks(losses: list[float], more: list[float]) -> None:
    (found,) = sweeps(["S"] * 5, RATES, np.array(losses, float), Metric("loss"))
    assert further(found, 1.0) == pytest.approx(more)


@pytest.mark.parametrize("found", [{"vit_s16": 1.23e-4}, {"vit_s16": 1e-5, "vit_b16": 2e-5, "vit_l16": 3e-5}],
                         ids=["one", "each"])  # fmt: skip
def test_pasting_the_lines_loads(tmp_path: Path, found: dict[str, float]) -> None:
    recipe = study(tmp_path)
    pasted = yaml.safe_load(paste(recipe, found))
    text = yaml.safe_load(RECIPE.read_text())
    text["train"] |= pasted["train"]
    path = tmp_path / "pasted.yaml"
    path.write_text(yaml.safe_dump(text))
    rates = load(path, "slurm", GRID).train.learning_rate
    assert isinstance(rates, dict)
    assert {name: rates[name] for name in found} == found
    assert rates["vit_l16"] == found.get("vit_l16", 3e-5)


def test_one_rate_for_all_is_one_number(tmp_path: Path) -> None:
    recipe = study(tmp_path, "grid.models=[vit_s16]")
    assert paste(recipe, {"vit_s16": 2e-4}) == "train:\n  learning_rate: 0.0002"
    assert not any("transfer" in line for line in advice(recipe, {"vit_s16": 2e-4}))


@pytest.mark.slow
def test_tune_trains_through_the_same_machinery(tiny_recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", str(tiny_recipe_file), "--profile", "laptop", "launch.cells_per_job=4", "--rates", "3"]
    assert sweep.main([*words, "train.epochs=3", "--octaves", "16"]) in (0, 1)
    said = capsys.readouterr().out
    assert "learning rates of vit_s16 on two, 3 epochs" in said
    assert "warning:" in said
    assert "best learning rate by final validation loss:" in said
    output = tiny_recipe_file.parent / "out" / "tune" / "vit_s16"
    assert len(list(output.glob("ledger/*/train.json"))) >= 3
    assert (output / "report" / "best_rates.png").exists()
    assert not list(output.glob("ledger/*/embed.json"))
