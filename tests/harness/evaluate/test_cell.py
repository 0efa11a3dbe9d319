"""Covers `evaluate/cell`: recall, consistency and random baselines from a file of embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.evaluate.cell import evaluate_cell
from harness.grid.cell_folder import EMBEDDINGS, PAIR_OUTCOMES
from harness.recipe.load import load
from harness.recipe.schema import Control, Recipe
from harness.storage.embeddings import read_embeddings, write_embeddings
from harness.storage.pair_outcomes import read_outcomes

GROUPS = 12  # of two genes with similar embeddings
GENES = [f"{letter}{group}" for group in range(GROUPS) for letter in "AB"]
PLACEBOS = ("placebos", "placebos_not_measured")
BATCHES = ("e1", "e2", "e3")


@pytest.fixture
def recipe(tiny_recipe_file: Path, tmp_path: Path) -> Recipe:
    """The tiny study, evaluated with the pairs of genes of each group."""
    lines = ["entity1,entity2", *(f"A{group},B{group}" for group in range(GROUPS))]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    evaluate = f"relationships: {{pairs: {tmp_path}/pairs.csv}}, bootstrap: 20, correction: centre_scale"
    return load(tiny_recipe_file, "laptop", [f"evaluate={{{evaluate}}}"])


def write_wells(folder: Path, *, replicates: int = 1, without: tuple[str, ...] = ()) -> None:
    """Embeddings of every gene and of controls in each batch; the genes of a group differ by little noise."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(GROUPS, 32))
    rows, features = [], []
    for batch in BATCHES[: max(1, replicates)]:
        for gene in [*GENES, *[""] * 8]:
            centre = centres[int(gene[1:])] if gene else np.zeros(32)
            features.append(centre + 0.05 * rng.normal(size=32))
            treatment = f"{gene}_guide" if gene else "EMPTY_control"
            rows.append({"experiment": batch, "gene": gene, "treatment": treatment})
    wells = pd.DataFrame(rows).drop(columns=list(without))
    write_embeddings(folder / EMBEDDINGS, wells, np.array(features, np.float32))


def test_similar_genes_are_recalled_and_random_features_recall_chance(recipe: Recipe, tmp_path: Path) -> None:
    write_wells(tmp_path, replicates=3)
    values = evaluate_cell(recipe, tmp_path)
    pairs = values["recall"]["pairs"]
    assert values["genes"] == len(GENES)
    assert (pairs["pairs"], pairs["unknown_pairs"]) == (GROUPS, 0)
    assert pairs["recall"] == 1.0
    assert pairs["recall_low"] <= pairs["recall"] <= pairs["recall_high"]
    assert pairs["chance"] == pytest.approx(0.1)
    assert values["placebos"]["random_features"]["pairs"]["recall"] < 0.5
    assert values["consistency"]["protocol"] == "replicate_consistency/1"


def test_which_pairs_are_recalled_is_kept_beside_the_embeddings(recipe: Recipe, tmp_path: Path) -> None:
    write_wells(tmp_path, replicates=3)
    values = evaluate_cell(recipe, tmp_path)
    recalls = {name: row["recall"] for name, row in values["recall"].items()}
    found = read_outcomes(tmp_path / PAIR_OUTCOMES, recalls)
    assert sorted(found["pairs"].named_pairs()) == sorted((f"A{group}", f"B{group}") for group in range(GROUPS))
    assert {*values} == {"protocol", "correction", "genes", "recall", "consistency", *PLACEBOS}


def test_without_replicates_there_is_no_consistency(recipe: Recipe, tmp_path: Path) -> None:
    write_wells(tmp_path)
    assert evaluate_cell(recipe, tmp_path)["consistency"] is None


def test_a_missing_column_is_named_with_those_there_are(recipe: Recipe, tmp_path: Path) -> None:
    write_wells(tmp_path, without=("gene",))
    with pytest.raises(ValueError, match=r"embeddings\.parquet: no column 'gene'; it has experiment, treatment"):
        evaluate_cell(recipe, tmp_path)


def rewrite(folder: Path, **columns: object) -> None:
    """Other metadata for the same wells."""
    table = pd.read_parquet(folder / EMBEDDINGS)
    features = table.filter(like="feature_").to_numpy(np.float32)
    write_embeddings(
        folder / EMBEDDINGS, table.drop(columns=list(table.filter(like="feature_"))).assign(**columns), features
    )


def test_names_are_names_whatever_their_type(recipe: Recipe, tmp_path: Path) -> None:
    write_wells(tmp_path, replicates=3)
    expected = evaluate_cell(recipe, tmp_path)["recall"]
    table = pd.read_parquet(tmp_path / EMBEDDINGS)
    rewrite(tmp_path, experiment=table["experiment"].str[1:].astype(int), gene=table["gene"].astype("category"),
            treatment=table["treatment"].replace("EMPTY_control", ""))  # fmt: skip
    blank = recipe.model_copy(
        update={"evaluate": recipe.evaluate.model_copy(update={"control": Control(column="treatment", value="")})}
    )
    assert evaluate_cell(blank, tmp_path)["recall"] == expected


def test_controls_are_no_gene_whatever_their_name(recipe: Recipe, tmp_path: Path) -> None:
    write_wells(tmp_path, replicates=3)
    expected = evaluate_cell(recipe, tmp_path)
    table = pd.read_parquet(tmp_path / EMBEDDINGS)
    rewrite(tmp_path, gene=table["gene"].where(table["gene"] != "", "control"))
    assert evaluate_cell(recipe, tmp_path) == expected


def test_wells_without_a_batch_are_counted_and_refused(recipe: Recipe, tmp_path: Path) -> None:
    write_wells(tmp_path, replicates=3)
    table = pd.read_parquet(tmp_path / EMBEDDINGS)
    rewrite(tmp_path, experiment=table["experiment"].where(table.index >= 5, None))
    with pytest.raises(ValueError, match=r"5 of 96 wells have no experiment, the first is well 1$"):
        evaluate_cell(recipe, tmp_path)


def test_every_evaluation_has_the_placebos_that_its_wells_allow(recipe: Recipe, tmp_path: Path) -> None:
    write_wells(tmp_path, replicates=3)
    path = tmp_path / EMBEDDINGS
    table, features = read_embeddings(path)
    wells = [f"{'ABCDEFGH'[number % 8]}{number // 8 % 12 + 1:02d}" for number in range(len(table))]
    write_embeddings(path, table.assign(well=wells, Cell_Count=np.arange(len(table))), features.astype(np.float32))
    values = evaluate_cell(recipe, tmp_path, "pixel_statistics")
    assert values["placebos_not_measured"] == {}
    assert {*values["placebos"]} == {"shuffled_pairs", "random_features", "well_position", "cell_count", "intensity"}
    shuffled = values["placebos"]["shuffled_pairs"]["pairs"]
    assert shuffled["recall_low"] <= shuffled["recall"] < values["recall"]["pairs"]["recall"]


def test_a_placebo_that_cannot_be_corrected_says_so_and_stops_nothing(recipe: Recipe, tmp_path: Path) -> None:
    """All controls are in one well, so positions do not vary over them."""
    write_wells(tmp_path)
    path = tmp_path / EMBEDDINGS
    table, features = read_embeddings(path)
    names = [f"B{number + 1:02d}" if gene else "A01" for number, gene in enumerate(table["gene"])]
    write_embeddings(path, table.assign(well=names), features.astype(np.float32))
    values = evaluate_cell(recipe, tmp_path)
    assert "well_position" not in values["placebos"]
    assert "zero" in values["placebos_not_measured"]["well_position"]


@pytest.mark.parametrize("count", [None, "many"], ids=["missing", "text"])
def test_wells_without_a_position_or_a_number_of_cells_say_so_and_stop_nothing(
    recipe: Recipe, tmp_path: Path, count: str | None
) -> None:
    write_wells(tmp_path, replicates=3)
    wells = len(read_embeddings(tmp_path / EMBEDDINGS)[0])
    rewrite(tmp_path, well=["A01", *["A01_s2"] * (wells - 1)], cell_count=pd.Series(["3", *[count] * (wells - 1)]))
    values = evaluate_cell(recipe, tmp_path)
    assert {*values["placebos"]} == {"shuffled_pairs", "random_features"}
    why = values["placebos_not_measured"]
    assert why["well_position"].startswith("95 of 96 wells have no position, such as 'A01_s2'")
    assert "number" in why["cell_count"]
