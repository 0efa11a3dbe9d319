"""Lists of every type and spelling hold the same numbers."""

import decimal
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.tables.list_columns import flat, is_vector, of_text
from analysis.tables.read_table import read_table

VALUES = [[0.5, -1.25, 3.0], [4.0, 5e-3, 6.0]]
TYPES = [
    pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16(), 3), pa.list_view(pa.float64()),
    pa.large_list_view(pa.float64()),
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_lists_of_every_type(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"embedding": pa.array(VALUES, kind)}), tmp_path / "t.parquet")
    np.testing.assert_allclose(read_table(tmp_path / "t.parquet").vectors("embedding"), VALUES, rtol=1e-3)


def test_lists_of_lists_are_flattened_and_keep_what_is_missing() -> None:
    nested = pa.array([[VALUES[0]], None, [VALUES[1][:2], VALUES[1][2:]]])
    for lists in (nested, nested.slice(1), pa.array([[[values]] for values in VALUES])):
        expected = [None if row is None else np.ravel(np.concatenate(row)).tolist() for row in lists.to_pylist()]
        column = flat(pa.chunked_array([lists]))
        assert is_vector(column.type)
        assert column.to_pylist() == expected


def test_decimals_in_lists_are_numbers() -> None:
    lists = pa.array([[decimal.Decimal("0.5"), decimal.Decimal("1.25")]])
    assert flat(pa.chunked_array([lists])).to_pylist() == [[0.5, 1.25]]


WRITERS: list[Callable[[list[float]], str]] = [
    str, json.dumps, lambda row: json.dumps(row, separators=(",", ":")), lambda row: str(np.array(row)),
    lambda row: repr(np.array(row, np.float32)), lambda row: str(tuple(row)), lambda row: str([row]),
    lambda row: "{" + ",".join(map(str, row)) + "}", lambda row: f" tensor({row})",
    lambda row: str(np.array(row)).replace(" ", "\n "),
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write(VALUES[0]))
@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_lists_that_were_written_as_text(tmp_path: Path, write: Callable[[list[float]], str], separator: str) -> None:
    table = pd.DataFrame({"gene": ["A", "B", "C"], "embedding": [*map(write, VALUES), ""]})
    table.to_csv(tmp_path / "t.csv", sep=separator, index=False)
    read = read_table(tmp_path / "t.csv")
    np.testing.assert_allclose(read.vectors("embedding"), [*VALUES, [np.nan] * 3])
    assert read.texts("gene").tolist() == ["A", "B", "C"]


@pytest.mark.parametrize(
    "texts",
    [["(1)", "(2)"], ["[a, b]", "[c, d]"], ["[1 2]", "x"], ["[1.0 ... 2.0]"], ["NA", "[1, 2]"], ["", ""], ["1,5"]],
)
def test_other_texts_stay_texts(texts: list[str]) -> None:
    assert of_text(pa.chunked_array([texts])).to_pylist() == texts


def test_whole_and_missing_elements() -> None:
    assert of_text(pa.chunked_array([["[1, 2]", "[3, 4]"]])).to_pylist() == [[1, 2], [3, 4]]
    lists = of_text(pa.chunked_array([["[1, null]", "[None, 4]", None]])).to_pylist()
    np.testing.assert_array_equal(lists[0] + lists[1], [1, np.nan, np.nan, 4])
    assert lists[2] is None
