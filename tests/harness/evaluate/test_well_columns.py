"""Covers `well_columns`: what of a table of wells cannot be evaluated, by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from harness.evaluate.well_columns import problems, read_wells
from harness.recipe.schema import Control, Evaluate

LISTS = {"complexes": Path("complexes.csv")}


def settings(**fields: object) -> Evaluate:
    return Evaluate.model_validate({"relationships": LISTS, **fields})


def wells(**columns: list[str]) -> pd.DataFrame:
    """Two batches of two controls and three genes each."""
    each = ["EMPTY_control", "EMPTY_control", "g1", "g2", "g3"]
    treatment = columns.pop("treatment", each * 2)
    gene = ["" if name == "EMPTY_control" else name.upper() for name in treatment]
    return pd.DataFrame({"experiment": ["a"] * 5 + ["b"] * 5, "treatment": treatment, "gene": gene, **columns})


def test_sound_wells_have_no_problem_and_controls_have_no_gene() -> None:
    table = wells(gene=["control", "control", "G1", "G2", "G3"] * 2)
    assert problems(settings(), table) == []
    read = read_wells(settings(), table)
    assert read.gene == ["", "", "G1", "G2", "G3"] * 2
    assert read.control.sum() == 4


def test_every_absent_column_is_named_with_its_field() -> None:
    found = problems(settings(gene_column="symbol", batch_column="plate"), wells())
    assert [field for field, _ in found] == ["batch_column", "gene_column"]
    assert found[1][1] == "no column 'symbol'; it has experiment, treatment, gene"


def test_a_control_that_is_not_there_is_answered_with_what_is() -> None:
    ((field, text),) = problems(settings(control=Control(value="DMSO")), wells())
    assert field == "control.value"
    assert "column treatment has no DMSO; it has EMPTY_control (4), g1 (2), g2 (2), g3 (2)" in text
    assert problems(settings(control=Control(value="DMSO"), correction="none"), wells()) == []


@pytest.mark.parametrize(("correction", "is_refused"), [("tvn", True), ("centre_scale", False)])
def test_a_batch_needs_two_controls_where_batches_are_corrected_apart(correction: str, is_refused: bool) -> None:
    table = wells(treatment=["EMPTY_control"] * 2 + ["g1", "g2", "g3"] + ["EMPTY_control", "g1", "g1", "g2", "g3"])
    found = problems(settings(correction=correction), table)
    assert [field for field, _ in found] == (["batch_column"] if is_refused else [])
    assert not is_refused or "too few in b (1)" in found[0][1]


def test_two_genes_are_too_few_and_are_named() -> None:
    table = wells(treatment=["EMPTY_control", "EMPTY_control", "g1", "g2", "g2"] * 2)
    ((field, text),) = problems(settings(), table)
    assert field == "gene_column"
    assert text.startswith("column gene names 2 genes (G1, G2) beside the controls; at least 3 are needed")
