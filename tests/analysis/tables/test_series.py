"""Columns of pandas, whatever their type, are text or numbers."""

import datetime

import pandas as pd
import pyarrow as pa
import pytest

from analysis.tables.names import names_of
from analysis.tables.parse_numbers import parse_numbers
from analysis.tables.series import column_of


@pytest.mark.parametrize(
    "series",
    [
        pd.Series(["1", "2", None], dtype="category"), pd.Series([1, 2, None], dtype="Int64"),
        pd.Series([1, 2, None], dtype="double[pyarrow]"), pd.Series(["1", "2", None], dtype="string"),
        pd.Series([1, "2", None], dtype=object), pd.Series([1.0, 2.0, float("nan")]),
        pd.Series(["1", "2", None], dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))),
    ],
    ids=lambda series: str(series.dtype),
)  # fmt: skip
def test_every_type_has_numbers_and_names(series: pd.Series) -> None:
    column = column_of(series)
    assert parse_numbers(column).values.tolist()[:2] == [1.0, 2.0]
    assert names_of(column, "plate").tolist() == ["1", "2", ""]


def test_dates_and_mixed_values_are_text() -> None:
    assert names_of(column_of(pd.Series([datetime.date(2024, 1, 2)])), "x").tolist() == ["2024-01-02"]
    assert names_of(column_of(pd.Series([1, "a", 2.5, None, pd.NA], dtype=object)), "x").tolist() == [
        "1",
        "a",
        "2.5",
        "",
        "",
    ]
