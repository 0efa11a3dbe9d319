"""Text in a CSV file is text, in pandas and in a spreadsheet; numbers stay numbers."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from analysis.figures.csv_table import csv_table, csv_text, from_csv_text

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "'=1", "'"]
PLAIN = ["CORUM", "hu.MAP", "1.5", "a=1", 'say "x"', "a,b;c", "a\rb", "a\nb", "", " x", "$x$", "é\u2028"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(text):
    assert csv_text(text) == f"'{text}"
    assert from_csv_text(csv_text(text)) == text


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays_as_it_is(text):
    assert csv_text(text) == text
    assert from_csv_text(text) == text


def test_pandas_reads_back_texts_and_numbers():
    texts = FORMULAS + PLAIN
    count = len(texts)
    table = pd.DataFrame({
        "name": texts, "low": -np.arange(count, dtype=float), "count": np.arange(count), "yes": [True] * count,
        "rank": pd.array([1, None] * (count // 2) + [1] * (count % 2), dtype="Int64"),
    })  # fmt: skip
    table.loc[0, "low"] = np.nan
    read = pd.read_csv(io.StringIO(csv_table(table)), keep_default_na=False, na_values={"low": "", "rank": ""})
    assert read["name"].map(from_csv_text).tolist() == texts
    np.testing.assert_array_equal(read["low"], table["low"])
    assert read["count"].tolist() == table["count"].tolist()
    assert read["yes"].tolist() == [True] * count
    assert read["rank"].fillna(0).tolist() == table["rank"].fillna(0).tolist()
    cells = [cell for row in csv.reader(io.StringIO(csv_table(table))) for cell in row[:1]]
    assert not any(cell.lstrip(" ").startswith(tuple("=+-@\t\r\n")) for cell in cells)
