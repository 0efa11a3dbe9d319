"""Covers `measured_profiles`: joining tables to wells. tests/harness/test_baselines.py evaluates a cell of profiles."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.embeddings.feature_tables import FeatureTableError, read_wells
from harness.evaluate.measured_profiles import rows_of

WELLS = pd.DataFrame({"experiment": ["e1", "e1", "e2"], "plate": ["1", "1", "2"], "well": ["A01", "B12", "A01"]})


def rows(tmp_path: Path, text: str, wells: pd.DataFrame = WELLS) -> list[int]:
    (tmp_path / "table.csv").write_text(text)
    return rows_of(read_wells([tmp_path / "table.csv"]), wells.assign(key=[f"k{n}" for n in wells.index]), "T").tolist()


def test_rows_are_joined_by_the_first_identity_that_the_table_has(tmp_path: Path) -> None:
    assert rows(tmp_path, "Metadata_Plate,Metadata_Well,x\n2,a1,1\n1,B12,2\n1,A1,3\n,,4\n") == [2, 1, 0]
    assert rows(tmp_path, "experiment,plate,well,x\ne2,2,A01,1\ne1,1,A01,2\ne1,1,B12,3\n") == [1, 2, 0]
    assert rows(tmp_path, "key,Metadata_Well,x\nk2,?,1\nk0,?,2\nk1,?,3\n") == [1, 2, 0]
    both = WELLS.loc[[0, 0, 2]].reset_index(drop=True)  # two fields of view of one well
    assert rows(tmp_path, "Metadata_Plate,Metadata_Well,x\n1,A01,1\n2,A01,2\n", both) == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Metadata_Plate,x\n1,1\n", "joined by Metadata_Plate and Metadata_Well"),
        ("Metadata_Plate,Metadata_Well,x\n1,A01,1\n", r'2 of 3 wells have no row, first plate "1" well "B12"'),
        ("Metadata_Plate,Metadata_Well,x\n1,A01,1\n1,A1,2\n", "1 wells occur twice, the first is 1, A01"),
        ("Metadata_Plate,Metadata_Well,x,y,z\n1,A01,1,1,1\n1,B12,,,\n2,A1,1,2,3\n", "1 rows were left out"),
    ],
)
def test_tables_that_do_not_fit_the_wells_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(FeatureTableError, match=complaint):
        rows(tmp_path, text)


def test_plates_of_the_same_name_need_their_experiment(tmp_path: Path) -> None:
    with pytest.raises(FeatureTableError, match="plate 1 is in 2 experiments of the study: add Metadata_Experiment"):
        rows(tmp_path, "Metadata_Plate,Metadata_Well,x\n1,A01,1\n1,B12,2\n", WELLS.assign(plate="1"))
