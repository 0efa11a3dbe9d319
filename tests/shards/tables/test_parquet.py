"""Parquet tables: parts become row groups, and are read back whatever the parts were."""

import io

import numpy as np
import pandas as pd
from pyarrow.parquet import ParquetFile

from shards.tables import parquet


def written(lengths: list[int], rows: int) -> tuple:
    table = pd.DataFrame({"key": [f"k{n}" for n in range(sum(lengths))], "number": np.arange(sum(lengths))})
    ends = np.cumsum(lengths)
    file = io.BytesIO()
    parquet.write_frames(
        (table.iloc[end - length : end] for end, length in zip(ends, lengths, strict=True)), file, rows
    )
    return table, ParquetFile(file)


def test_row_groups_have_at_least_the_stated_rows():
    table, file = written([3, 1, 5, 2, 1], rows=4)
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [4, 5, 3]
    pd.testing.assert_frame_equal(parquet.read_frame(file), table)


def test_columns_are_read_by_name():
    table, file = written([4, 4], rows=4)
    pd.testing.assert_frame_equal(parquet.read_frame(file, ["number"]), table[["number"]])
