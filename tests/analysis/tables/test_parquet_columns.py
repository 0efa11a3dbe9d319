"""Parquet as pandas, Arrow and others write it: index levels, names of several levels, and every type."""

import datetime
import decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.tables.errors import TableError
from analysis.tables.parquet_columns import parquet_columns


def read(path: Path) -> dict[str, list[object]]:
    names, columns = parquet_columns(path)
    return {name: column.to_pylist() for name, column in zip(names, columns, strict=True)}


def test_named_levels_of_an_index_are_columns_and_a_range_is_none(tmp_path: Path) -> None:
    frame = pd.DataFrame({"flops": [1.0, 2.0], "size": ["S", "B"], "loss": [3.0, 4.0]})
    frame.set_index(["flops", "size"]).to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == {"loss": [3.0, 4.0], "flops": [1.0, 2.0], "size": ["S", "B"]}
    frame.to_parquet(tmp_path / "t.parquet")
    assert list(read(tmp_path / "t.parquet")) == ["flops", "size", "loss"]
    frame.set_index(pd.Index(["G1", "G2"])).to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet")["index"] == ["G1", "G2"]


def test_numbers_and_levels_as_names_are_text(tmp_path: Path) -> None:
    pd.DataFrame({0: [1.0], 1: [2.0]}).rename_axis(index="gene").to_parquet(tmp_path / "t.parquet")
    assert list(read(tmp_path / "t.parquet")) == ["0", "1"]
    levels = pd.MultiIndex.from_tuples([("Cells", "Area"), ("plate", "")])
    pd.DataFrame([[1.0, "P"]], columns=levels).to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == {"Cells_Area": [1.0], "plate": ["P"]}


def test_a_struct_is_its_fields(tmp_path: Path) -> None:
    pq.write_table(pa.table({"emb": pa.array([{"x": 1, "y": "a"}, None])}), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == {"emb.x": [1, None], "emb.y": ["a", None]}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Categorical(["a", None]), ["a", None]),
        (pa.array([decimal.Decimal("1.5"), None]), [1.5, None]),
        (np.array([1.5, 2], np.float16), [1.5, 2.0]),
        (pa.array([datetime.date(2024, 1, 2), None]), ["2024-01-02", None]),
        (pa.array([b"text", b"\xff"]), ["74657874", "ff"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.nulls(2), [None, None]),
        (pa.array([True, None]), [True, None]),
    ],
)
def test_every_type_is_text_numbers_or_booleans(tmp_path: Path, values: object, expected: list[object]) -> None:
    pq.write_table(pa.table({"x": values}), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == {"x": expected}


def test_what_is_damaged_or_ambiguous_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(TableError, match="cannot be read as Parquet"):
        parquet_columns(tmp_path / "t.parquet")
    columns = [pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, names=["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(TableError, match="several columns are called 'a'"):
        parquet_columns(tmp_path / "t.parquet")


def test_a_folder_of_files_is_one_table(tmp_path: Path) -> None:
    pq.write_to_dataset(pa.table({"model": ["S", "B"], "loss": [3.0, 2.0]}), tmp_path / "t.parquet", ["model"])
    assert sorted(zip(*read(tmp_path / "t.parquet").values(), strict=True)) == [(2.0, "B"), (3.0, "S")]
