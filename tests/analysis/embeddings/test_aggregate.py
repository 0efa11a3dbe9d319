"""Aggregation of wells to guides to genes, and filters of wells."""

import numpy as np
import pandas as pd
import pytest

from analysis.embeddings.aggregate import aggregate, curate


def test_guides_have_equal_weight_for_any_number_of_replicates():
    embeddings = np.array([[0.0], [2.0], [4.0], [10.0], [7.0], [99.0]])
    genes = ["B", "B", "B", "B", "A", ""]
    found = aggregate(embeddings, genes, ["b1", "b1", "b1", "b2", "a1", ""])
    assert found.genes == ["A", "B"]
    assert (found.wells.tolist(), found.guides.tolist()) == ([1, 4], [1, 2])
    np.testing.assert_allclose(found.embeddings, [[7], [6]])  # guide b1 averages 2, b2 10
    np.testing.assert_allclose(aggregate(embeddings, genes).embeddings, [[7], [4]])  # without guides: all wells alike


def test_columns_of_a_filtered_table_are_taken_by_position():
    wells = pd.DataFrame({"gene": ["A", "B", "B"], "guide": ["a1", "b1", "b2"]}, index=[7, 3, 0])
    found = aggregate(np.array([[1.0], [2.0], [4.0]]), wells["gene"], wells["guide"])
    assert (found.genes, found.embeddings.tolist()) == (["A", "B"], [[1.0], [3.0]])


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        (["A"], "2 embeddings, but 1 genes"),
        (["", ""], "no well has a gene"),
        (["A", None], "well 1 has a missing gene"),
    ],
)
def test_aggregation_needs_a_gene_per_well(genes, message):
    with pytest.raises(ValueError, match=message):
        aggregate(np.eye(2), genes)


def test_the_median_ignores_one_well_that_went_wrong():
    embeddings = np.array([[1.0], [2.0], [900.0]])
    assert aggregate(embeddings, ["A"] * 3, method="median").embeddings.tolist() == [[2.0]]
    with pytest.raises(ValueError, match="no aggregation 'mode'; known: mean, median"):
        aggregate(embeddings, ["A"] * 3, method="mode")


def test_curation_keeps_frequent_perturbations_and_counts_the_rest():
    perturbation = ["a", "a", "a", "b", "b", "c", "DMSO", "DMSO", "DMSO"]
    experiment = ["1", "2", "3", "1", "1", "1", "1", "1", "2"]
    control = np.array([name == "DMSO" for name in perturbation])
    found = curate(perturbation, experiment, control, min_experiments=3, min_wells=3, controls_per_experiment=1)
    assert found.keep[:6].tolist() == [True] * 3 + [False] * 3
    assert found.keep[6:8].sum() == 1
    assert found.keep[8]
    counts = (found.perturbations, found.dropped_perturbations, found.dropped_wells, found.dropped_controls)
    assert counts == (1, 2, 3, 1)
