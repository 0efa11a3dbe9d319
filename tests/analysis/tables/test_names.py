"""One name for one thing: wells, numbers that are names, and words that look like missing values."""

import numpy as np
import pyarrow as pa
import pytest

from analysis.tables.names import base_name, is_well_column, joined_name, name_of, names_of


@pytest.mark.parametrize(
    "text", ["A1", "a1", "A01", "a01", "A001", " A1 ", "A-1", "A 01", "A_1", "a:01", "A - 1", "a -01"]
)
def test_all_spellings_of_a_well_are_one(text: str) -> None:
    assert name_of(text, "well") == "A01"
    assert name_of(text, "Metadata_Well") == "A01"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("aa1", "AA01"),
        ("AF48", "AF48"),
        ("P24", "P24"),
        ("AG1", "AG1"),
        ("A0", "A0"),
        ("A100", "A100"),
        ("r01c02", "r01c02"),
    ],
)
def test_positions_of_large_plates_are_wells_and_others_are_left(text: str, name: str) -> None:
    assert name_of(text, "well") == name


@pytest.mark.parametrize(
    ("text", "name"),
    [("1", "1"), ("1.0", "1"), ("1.00", "1"), ("001", "001"), ("1.5", "1.5"), ("-2.0", "-2"), ("A1", "A1"),
     ("1e3", "1e3"),
     ("NA", "NA"), ("nan", "nan"), ("None", "None"), (" TP53 ", "TP53"), ("", ""), ("TRUE", "True")],
)  # fmt: skip
def test_numbers_are_names_without_a_fraction_of_zeros(text: str, name: str) -> None:
    assert name_of(text, "gene") == name


def test_columns_of_every_type_become_the_same_names() -> None:
    for values in (
        pa.array([1053601756, None]), pa.array([1053601756.0, np.nan]), pa.array(["1053601756", None]),
        pa.array(["1053601756.0", ""]),
    ):  # fmt: skip
        assert names_of(pa.chunked_array([values]), "plate").tolist() == ["1053601756", ""]
    assert names_of(pa.chunked_array([[0.1, 2.5]]), "dose").tolist() == ["0.1", "2.5"]
    assert names_of(pa.chunked_array([[True, None]]), "x").tolist() == ["True", ""]
    assert names_of(pa.chunked_array([], pa.string()), "x").tolist() == []


def test_prefixes_are_no_part_of_a_column_s_name() -> None:
    assert base_name("Image_Metadata_Well") == base_name("Metadata_Well") == base_name("well") == "well"
    assert joined_name("Metadata_Field ID") == joined_name("field_id") == "fieldid"
    assert is_well_column("Well_Position")
    assert not is_well_column("wellness")
