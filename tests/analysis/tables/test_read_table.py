"""A table that is written in any dialect comes back with the names and numbers that it had."""

import bz2
import csv
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.tables.errors import TableError
from analysis.tables.read_table import read_table

COMPRESSIONS: list[Callable[[bytes], bytes]] = [
    bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress
]  # fmt: skip
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
NAMES = st.one_of(WORDS, st.sampled_from(["NA", "None", "nan", "001", "a,b", "x;y", 'say "x"', "TP53", "-", "A 1", ""]))
NUMBERS = st.floats(-1e9, 1e9).map(lambda value: float(f"{value:.6g}"))


@st.composite
def dialects(draw: st.DrawFn) -> tuple[dict[str, object], bytes, list[str], list[float]]:
    """How a table was written, its bytes, and the names and numbers that it holds."""
    names = draw(st.lists(NAMES, min_size=1, max_size=8))
    values = [draw(NUMBERS) for _ in names]
    separator = draw(st.sampled_from([",", "\t", ";", "|"]))
    comma = separator == ";" and draw(st.booleans())
    style = {
        "separator": separator, "comma": comma, "line": draw(st.sampled_from(["\n", "\r\n"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])), "mark": draw(st.booleans()),
        "above": draw(st.sampled_from(["", "# made by hand\n", "\n"])), "end": draw(st.booleans()),
        "compression": draw(st.integers(0, len(COMPRESSIONS) - 1)),
    }  # fmt: skip
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, quoting=style["quoting"], lineterminator=style["line"])
    writer.writerow(["number", "name", "gene"])
    for name, value in zip(names, values, strict=True):
        writer.writerow([f"{value!r}".replace(".", ",") if comma else repr(value), name, "G"])
    body = style["above"] + text.getvalue()
    body = body if style["end"] else body.removesuffix(style["line"])
    data = COMPRESSIONS[style["compression"]](body.encode("utf-8-sig" if style["mark"] else "utf-8"))
    return style, data, names, values


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(dialects())
def test_names_and_numbers_come_back_from_any_dialect(
    tmp_path: Path, written: tuple[dict[str, object], bytes, list[str], list[float]]
) -> None:
    style, data, names, values = written
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    table = read_table(path)
    assert table.names == ("number", "name", "gene")
    np.testing.assert_array_equal(table.numbers("number"), values)
    assert [str(text) for text in table.column("name").to_pylist()] == names
    assert table.place(0) == f"line {3 if style['above'] else 2}"


def test_places_are_lines_of_text_and_rows_of_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,x\n\n2.3.4,y\n")
    with pytest.raises(TableError, match=r"t\.csv, line 4: column 'a' holds '2\.3\.4', which is not a number"):
        read_table(tmp_path / "t.csv").numbers("a")
    pd.DataFrame({"a": ["1", "oops"]}).to_parquet(tmp_path / "t.pq")
    with pytest.raises(TableError, match=r"t\.pq, row 2: column 'a' holds 'oops'"):
        read_table(tmp_path / "t.pq").numbers("a")


def test_commas_of_one_column_are_read_as_the_others_show(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("flops\tloss\n5,88e+17\t3,319\n3,072e+18\t3,091\n")
    assert read_table(tmp_path / "t.tsv").numbers("loss").tolist() == [3.319, 3.091]


def test_commas_of_which_nothing_says_what_they_are_are_refused(tmp_path: Path) -> None:
    for separator in ("\t", ","):
        (tmp_path / "t.txt").write_text(f'flops{separator}loss\n5{separator}"3,319"\n7{separator}"3,091"\n')
        with pytest.raises(TableError, match=r"t\.txt.* 'loss' holds '3,319', a fraction or thousands: "):
            read_table(tmp_path / "t.txt").numbers("loss")


def test_losses_of_three_digits_beside_a_list_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('loss,gpus\n3.319,"0,1"\n3.091,"2,3"\n')
    assert read_table(tmp_path / "t.csv").numbers("loss").tolist() == [3.319, 3.091]


def test_lists_become_a_matrix_and_lists_of_several_lengths_are_refused(tmp_path: Path) -> None:
    lists = {"plain": [[1.0, 2.0], None], "fixed": [[3.0, None], [4.0, 5.0]], "ragged": [[1.0], [1.0, 2.0]]}
    table = pa.table({name: pa.array(values, pa.list_(pa.float32())) for name, values in lists.items()})
    fixed = pa.array(lists["fixed"], pa.list_(pa.float16(), 2))
    pq.write_table(table.set_column(1, "fixed", fixed), tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    np.testing.assert_array_equal(read.vectors("plain"), [[1, 2], [np.nan, np.nan]])
    np.testing.assert_array_equal(read.vectors("fixed"), [[3, np.nan], [4, 5]])
    with pytest.raises(TableError, match="row 2: ragged has 2 elements, in the rows before 1"):
        read.vectors("ragged")


def test_a_table_without_rows_or_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n")
    with pytest.raises(TableError, match="has no rows"):
        read_table(path)
    assert len(read_table(path, empty=True)) == 0
    path.write_text("a,a\n1,2\n")
    with pytest.raises(TableError, match=r"t\.csv: several columns are called 'a'"):
        read_table(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(TableError, match="no column 'c'; it has a, b"):
        read_table(path).column("c")
