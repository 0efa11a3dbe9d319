"""Tables in any dialect: what was written comes back. Covers `read_tables`, `compressed` and `parquet_tables`."""

import gzip
import io
import lzma
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from dialects import COMPRESSIONS, Dialect, dialects
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import LayoutError
from shards.tables.columns import integers, parse_pairs
from shards.tables.read_tables import find_tables, read_table

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=8) | st.sampled_from(
    ["NA", "None", "nan", "001", "1.0", "1", " x ", "a;b", "a,b", "a\tb", '"', "é", "true"]
)


@given(dialect=dialects(), rows=st.lists(st.tuples(CELL, CELL, st.just("x")), min_size=1, max_size=6))
def test_a_table_in_any_dialect_comes_back(tmp_path_factory, dialect, rows):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    dialect.write(path, ["plate", " gene ", "well"] if not dialect.parquet else ["plate", "gene", "well"], rows)
    table = read_table(str(path), ("plate", "gene"))
    assert table[["plate", "gene", "well"]].to_numpy().tolist() == [list(row) for row in rows]
    where = "row 0" if dialect.parquet else "line 2"
    assert table["source:line"].iloc[0] == f"{path}, {where}"


def test_columns_of_any_type_of_a_parquet_file_are_text(tmp_path):
    frame = pd.DataFrame(
        {
            "whole": [1, 2], "floating": [1.0, np.nan], "half": [0.5, 2.0], "text": ["001", None],
            "kind": pd.Categorical(["a", "b"]), "flag": [True, False], "listed": [[1, 2], []],
        },
        index=pd.Index(["A01", "A02"], name="well"),
    )  # fmt: skip
    frame.to_parquet(tmp_path / "t.csv")
    table = read_table(str(tmp_path / "t.csv"), ("well",))
    assert table["well"].tolist() == ["A01", "A02"]
    assert table["whole"].tolist() == ["1", "2"]
    assert table["floating"].tolist() == ["1", ""]
    assert table["half"].tolist() == ["0.5", "2"]
    assert table["text"].tolist() == ["001", ""]
    assert table["kind"].tolist() == ["a", "b"]
    assert table["flag"].tolist() == ["True", "False"]
    assert table["listed"].tolist() == ["[1, 2]", "[]"]


def test_row_groups_of_a_parquet_file_and_one_without_rows(tmp_path):
    pq.write_table(pa.table({"well": ["A01", "A02", "A03"]}), tmp_path / "t.parquet", row_group_size=2)
    assert read_table(str(tmp_path / "t.parquet"))["source:line"].str.rpartition(", ")[2].tolist() == [
        "row 0", "row 1", "row 2",
    ]  # fmt: skip
    pq.write_table(pa.table({"well": pa.array([], pa.string())}), tmp_path / "t.parquet")
    assert list(read_table(str(tmp_path / "t.parquet"), ("well",)).columns) == ["well", "source:line"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"well\nA01\n" * 999)[:-9], "not a readable table: Compressed file ended"),
        (COMPRESSIONS["xz"](b"well\nA01\n" * 999)[:-9], "not a readable table: Compressed file ended"),
        (COMPRESSIONS["bzip2"](b"well\nA01\n" * 999)[:-9], "not a readable table: Compressed file ended"),
        (zstandard.compress(b"well\nA01\n" * 999)[:8] + b"junk", "not a readable table"),
        (COMPRESSIONS["zip"](b"well\nA01\n" * 999)[:-9], "not a readable table: File is not a zip file"),
        (b"PAR1 and nothing", "not a readable table: .*cannot be read as Parquet"),
    ],
    ids=["gzip", "xz", "bzip2", "zstd", "zip", "Parquet"],
)
def test_damaged_files_are_named(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(LayoutError, match=f"^{tmp_path}/t.csv.*{message}"):
        read_table(str(tmp_path / "t.csv"), ("well",))


def test_streams_one_after_another_are_one_table(tmp_path):
    """As `cat a.gz b.gz` gives, which pipelines do to join the parts of a table."""
    for name in ("gzip", "bzip2", "xz", "zstd"):
        parts = [COMPRESSIONS[name](text) for text in (b"well,gene\nA01,x\n", b"A02,", b"y\n" + b"A03,z\n" * 20_000)]
        (tmp_path / "t.csv").write_bytes(b"".join(parts))
        table = read_table(str(tmp_path / "t.csv"))
        assert table["gene"].iloc[:3].tolist() == ["x", "y", "z"]
        assert len(table) == 20_002


def test_memory_of_a_hostile_archive_is_bounded(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    (tmp_path / "t.csv").write_bytes(lzma.compress(b"well\nA01\n", filters=filters))
    with pytest.raises(LayoutError, match="not a readable table: Memory usage limit exceeded"):
        read_table(str(tmp_path / "t.csv"))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(20):
            archive.writestr(f"{number}{'x' * 65_000}", "")
    (tmp_path / "t.csv").write_bytes(file.getvalue())
    with pytest.raises(LayoutError, match="an archive of too many files"):
        read_table(str(tmp_path / "t.csv"))


def test_an_archive_of_several_files_is_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/a.xml", "a")
        archive.writestr("xl/b.xml", "b")
    (tmp_path / "t.csv").write_bytes(file.getvalue())
    with pytest.raises(LayoutError, match="an archive of 2 files, where one table is needed"):
        read_table(str(tmp_path / "t.csv"))


def test_a_compressed_table_from_the_web(tmp_path, web):
    Dialect(";", 0, "utf-8", "\n", "zstd", False).write(tmp_path / "t.csv", ["well", "gene"], [["A01", "x"]])
    assert read_table(f"{web}/t.csv", ("well",))["gene"].tolist() == ["x"]


def test_a_header_decides_the_separator_by_the_columns_that_are_needed(tmp_path):
    """Commas within names, and a unit with a semicolon, are no separators."""
    (tmp_path / "t.csv").write_text('well\t"a,b,c,d"\tdose (a;b)\nA01\t1\t2\n')
    assert list(read_table(str(tmp_path / "t.csv"), ("well",)).columns[:3]) == ["well", "a,b,c,d", "dose (a;b)"]


def test_tables_are_found_by_name_or_by_an_option(tmp_path: Path):
    for name in ("a/x.csv", "b/X.csv", "b/y.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    pattern, left_out = re.compile("x.csv"), list[str]()
    assert find_tables(str(tmp_path), None, pattern, left_out, "x") == [f"{tmp_path}/a/x.csv"]
    assert find_tables(str(tmp_path), "b/y.csv", pattern, left_out, "x") == [f"{tmp_path}/b/y.csv"]
    with pytest.raises(LayoutError, match=r"/b: no table named like x.csv in this folder"):
        find_tables(str(tmp_path), "b", pattern, left_out, "x")


def test_whole_numbers_with_a_fraction_of_zero():
    table = pd.DataFrame({"site": ["1", " 2.0", "3."], "source:line": ["t, line 2"] * 3})
    assert integers(table, "site").tolist() == [1, 2, 3]
    with pytest.raises(LayoutError, match=r"t, line 2: site '1.5' is not a whole number"):
        integers(table.assign(site="1.5"), "site")


def test_a_pair_that_is_named_twice_is_refused():
    with pytest.raises(LayoutError, match="option channels: 'ch1' is named twice in 'ch1=DNA,ch1=ER'"):
        parse_pairs("ch1=DNA,ch1=ER", "channels")
