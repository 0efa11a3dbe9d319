"""One name for a well, however it is written."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import LayoutError
from shards.layouts.well_names import normal_well, normal_wells, well_name, wells_of


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("A1", "A01"), ("a1", "A01"), ("A01", "A01"), ("A001", "A01"), (" P24 ", "P24"), ("A-1", "A01"),
        ("A 01", "A01"), ("aa1", "AA01"), ("AF48", "AF48"), ("r01c01", "A01"), ("R16C24", "P24"), ("r27c1", "AA01"),
        # no wells of a plate:
        ("A0", "A0"), ("A100", "A100"), ("NC1", "NC1"), ("pos 1", "pos 1"), ("12", "12"), ("", ""), ("A１", "A１"),
    ],
)  # fmt: skip
def test_a_well_has_one_name(text, normal):
    assert normal_well(text) == normal


@given(row=st.integers(1, 52), column=st.integers(1, 72))
def test_every_well_of_every_plate_keeps_its_row_and_column(row, column):
    name = well_name(row, column)
    assert normal_wells(pd.Series([name, name.lower(), f"r{row:02d}c{column:02d}"])).tolist() == [name] * 3


def test_wells_by_row_and_column():
    table = pd.DataFrame({"Row": ["A", "b", "3", "AA"], "Column": ["1", "02", "3", "4"], "source:line": ["t"] * 4})
    wells = wells_of(table, ("Well",))
    assert normal_wells(wells).tolist() == ["A01", "B02", "C03", "AA04"]
    assert wells_of(table.assign(Well=" a1 "), ("Well",)).tolist() == ["a1"] * 4
    assert wells_of(table[["Row", "source:line"]], ("Well",)) is None
    with pytest.raises(LayoutError, match=r"t: Row 'A-' is not a whole number"):
        wells_of(table.assign(Row="A-"), ("Well",))
    with pytest.raises(LayoutError, match="t: column 'Row' is empty"):
        wells_of(table.assign(Row=""), ("Well",))
