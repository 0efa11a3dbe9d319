"""`plan --power`: by assumptions before anything has run, by the finished cells then."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from finished_cells import finished
from tiny_study import GENES

from harness import sweep
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.report.gains import power as of_power
from harness.report.gains.power import SourcePower, power, text


@pytest.fixture
def built(tiny_recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The tiny study with its shards, and nothing trained."""
    from harness.data.prepare import prepare

    prepare(load(tiny_recipe_file, "laptop", []))
    capsys.readouterr()
    return tiny_recipe_file


@pytest.mark.slow
def test_assumptions_are_stated_where_nothing_has_run(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load(built, "laptop", [])
    (found,) = power(recipe, cells(recipe), 0.02)
    assert (found.source, found.genes, found.told_by) == ("complexes", 12, "assumptions")
    assert found.wells_per_gene == pytest.approx(3.0)
    assert found.difference is not None
    assert 0 < found.difference < 1
    assert "Assumed: a recall of 0.3" in text([found])
    assert sweep.main(["plan", str(built), "--profile", "laptop", "--power", "0.02", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["wanted"] == 0.02


@pytest.mark.slow
def test_a_list_of_other_genes_is_refused_by_name(built: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("entity1,entity2\nTP53,MDM2\n")
    recipe = load(built, "laptop", [f"evaluate.relationships={{other: {other}}}"])
    with pytest.raises(ValueError, match="other: none of its 1 pairs has both genes among the assay's 12"):
        power(recipe, cells(recipe), 0.01)


@pytest.mark.slow
def test_finished_cells_tell_how_recalls_vary(built: Path) -> None:
    assert sweep.main(["run", str(built), "--profile", "laptop"]) == 0
    recipe = load(built, "laptop", [])
    (found,) = power(recipe, cells(recipe), 0.01)
    assert found.told_by == of_power.ONE_SEED
    assert "compared two by two within a seed" in text([found])


@pytest.mark.slow
def test_controls_count_as_no_gene_whatever_their_name(built: Path, tmp_path: Path) -> None:
    """The gene column of a table may name its controls; here treatments stand for genes."""
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"entity1,entity2\n{GENES[0]}_guide_1,{GENES[1]}_guide_1\n{GENES[2]}_guide_1,EMPTY_control\n")
    recipe = load(built, "laptop", [f"evaluate.relationships={{pairs: {pairs}}}", "evaluate.gene_column=treatment"])
    (found,) = power(recipe, cells(recipe), 0.01)
    assert (found.genes, found.pairs) == (12, 1)


@pytest.mark.slow
def test_an_experiment_that_the_shards_lack_is_refused(built: Path) -> None:
    recipe = load(built, "laptop", ["embed.experiments=[other]"])
    with pytest.raises(ValueError, match=r"embed\.experiments: other not in"):
        power(recipe, cells(recipe), 0.01)


@pytest.mark.parametrize("slope", ["0", "-0.01", "nan", "inf"])
def test_a_slope_that_no_study_could_tell_is_refused(
    slope: str, tiny_recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(["plan", str(tiny_recipe_file), "--profile", "laptop", f"--power={slope}"]) != 0
    assert "--power: a slope is a number above 0" in capsys.readouterr().err


ANNEALED = Path(__file__).parents[4] / "recipes" / "scaling_annealed.yaml"


def test_every_end_of_a_trunk_is_a_design(tmp_path: Path) -> None:
    """Each has a compute of its own, and a recall that is no repeat of another end's."""
    recipe = load(ANNEALED, "slurm", [f"output={tmp_path}", "grid.models=[vit_s16]", "grid.datasets=[rxrx3]"])
    grid = cells(recipe)
    trained = [cell for cell in grid if cell.kind == "trained"]
    computes = of_power._log_computes(recipe, grid)
    shares = sorted(cell.training.share for cell in trained if cell.training)
    assert len(shares) == 4
    assert computes - computes[-1] == pytest.approx([math.log10(share) for share in shares], abs=0.01)
    for cell in trained:
        finished(recipe, cell, 0.3, annealed=True)
    pilot = of_power._pilot(recipe, grid)["CORUM"]
    assert [len(recalls) for recalls in pilot.repeats.values()] == [1, 1, 1, 1]
    assert not pilot.has_seeds


def test_an_assumed_deviation_over_seeds_is_stated() -> None:
    row = SourcePower("CORUM", 100, 10.0, 50, 4.0, of_power.ONE_SEED, 0.1, 0.02, 0.01, None, 2.0)
    assert "No design has two seeds. Assumed: 0.005 of deviation over seeds." in text([row])
