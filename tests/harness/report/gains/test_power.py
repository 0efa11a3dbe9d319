"""`plan --power`: by assumptions before anything has run, by the finished cells then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import sweep
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.report.gains.power import power, text


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
    assert found.told_by == "the finished cells"
    assert "compared two by two within a seed" in text([found])
