"""Covers `evaluate/cell`: recall, consistency and random baselines from a file of embeddings."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.embeddings import blocks
from analysis.recall.pairs import read_pairs
from analysis.recall.relationship_recall import recall_of_pairs
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


# --- large screens ---------------------------------------------------------------------------------------------------


def write_screen(path: Path, wells: int, width: int, others: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Wells of genes with similar partners, and of others, in three batches that differ; a quarter are controls."""
    rng = np.random.default_rng(0)
    names = [*GENES, *(f"other{number}" for number in range(others))]
    gene = rng.permutation(np.arange(wells) % len(names))
    control = rng.random(wells) < 0.25
    batch = rng.integers(3, size=wells)
    centres = rng.normal(size=(len(names) // 2, width))
    features = rng.normal(size=(wells, width)) + 0.3 * centres[gene // 2] * ~control[:, None]
    features = (features * (1 + batch[:, None]) + 2 * batch[:, None]).astype(np.float32)
    name = [names[n] if not c else "" for n, c in zip(gene, control, strict=True)]
    guide = rng.integers(2, size=wells)
    treatment = [f"{n}_{g}" if n else "EMPTY_control" for n, g in zip(name, guide, strict=True)]
    table = pd.DataFrame({"experiment": [BATCHES[b] for b in batch], "gene": name, "treatment": treatment})
    write_embeddings(path, table, features)
    return table, features


def definition(correction: str, features: np.ndarray, control: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """The corrections' definitions on arrays in memory; TVN up to a rotation, which changes no cosine."""

    def standardised(values: np.ndarray, fitted: np.ndarray) -> np.ndarray:
        return (values - values[fitted].mean(axis=0)) / values[fitted].std(axis=0)

    values = features.astype(np.float64)
    if correction == "centre_scale":
        return standardised(values, control)
    if correction == "pca_centre_scale":
        for name in BATCHES:
            values[batch == name] = standardised(values[batch == name], np.ones((batch == name).sum(), bool))
        values -= values.mean(axis=0)
        values = values @ np.linalg.svd(values, full_matrices=False)[2].T
        for name in BATCHES:
            values[batch == name] = standardised(values[batch == name], control[batch == name])
    if correction == "tvn":
        values = standardised(values, control)
        values = standardised(values @ np.linalg.eigh(np.cov(values[control], rowvar=False))[1], control)
        for name in BATCHES:
            here = batch == name
            spread, axes = np.linalg.eigh(np.cov(values[here & control], rowvar=False))
            values[here] = values[here] @ (axes * (spread + 0.5) ** -0.5) @ axes.T
    return values


@pytest.mark.parametrize("correction", ["tvn", "centre_scale", "pca_centre_scale", "none"])
@pytest.mark.parametrize("block", [37, 4096])
def test_wells_in_blocks_give_the_recalls_of_wells_in_memory(
    recipe: Recipe, tmp_path: Path, correction: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    monkeypatch.setattr("harness.storage.embeddings.GROUP_WELLS", 100)
    monkeypatch.setattr("harness.storage.embeddings.READ_COLUMNS", 7)
    table, features = write_screen(tmp_path / EMBEDDINGS, 400, 24)
    assert recipe.evaluate is not None
    settings = recipe.evaluate.model_copy(update={"correction": correction})
    found = evaluate_cell(recipe.model_copy(update={"evaluate": settings}), tmp_path)
    control = (table["gene"] == "").to_numpy()
    values = pd.DataFrame(definition(correction, features, control, table["experiment"].to_numpy()))
    guides = values[~control].groupby([table["gene"][~control], table["treatment"][~control]]).mean()
    genes = guides.groupby(level=0).mean()
    pairs = read_pairs(settings.relationships["pairs"], "pairs")
    ((expected, outcomes),) = recall_of_pairs(list(genes.index), genes.to_numpy(), [pairs])
    row = found["recall"]["pairs"]
    assert (row["recall"], row["pairs"]) == (expected.recall, expected.pairs)
    assert (row["recall_low"], row["recall_high"]) == pytest.approx((expected.recall_low, expected.recall_high))
    assert 0.1 < row["recall"] < 1  # so that another map would give another number
    same = read_outcomes(tmp_path / PAIR_OUTCOMES, {"pairs": row["recall"]})["pairs"]
    np.testing.assert_array_equal(same.recalled, outcomes.recalled)


@pytest.mark.slow
def test_a_well_takes_little_more_memory_than_its_features(recipe: Recipe, tmp_path: Path) -> None:
    """A well more costs its features as they are stored, and the names and placebos beside them."""
    peaks, sizes, width = list[int](), (10_000, 20_000), 512
    for wells in sizes:
        write_screen(tmp_path / EMBEDDINGS, wells, width, others=1_976)
        tracemalloc.start()
        evaluate_cell(recipe, tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    slope = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    assert slope >= 4 * width
    assert slope < 1.2 * 4 * width
