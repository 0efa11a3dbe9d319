"""Metadata tables as people save them: byte-order marks, line endings, quotes, mistakes. Covers `columns`, too."""

import csv
import gzip
import io
import re
import tracemalloc
from pathlib import Path

import pytest
from hostile_files import not_files
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import LayoutError
from shards.layouts.registry import read_layout
from shards.layouts.well_table import safe_key
from shards.tables import csv_tables, read_tables
from shards.tables.columns import filled
from shards.tables.csv_tables import csv_parts
from shards.tables.read_tables import read_table as read_csv

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=12)


@pytest.mark.parametrize("prefix", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_marks_and_line_ends_do_not_matter(tmp_path, prefix, end, suffix):
    text = prefix + end.join(["well,gene,SMILES", 'A01,β-catenin,"C(=O)O,[Na]"', "", "A02,,", ""])
    path = tmp_path / f"table.{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    table = read_csv(str(path), ("well",))
    assert table["well"].tolist() == ["A01", "A02"]
    assert table["gene"].tolist() == ["β-catenin", ""]
    assert table["SMILES"].tolist() == ["C(=O)O,[Na]", ""]
    assert table["source:line"].tolist() == [f"{path}, line 2", f"{path}, line 4"]


@given(rows=st.lists(st.tuples(CELL, CELL, st.just("x")), min_size=1, max_size=20))
def test_any_text_comes_back_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    file = io.StringIO()
    csv.writer(file).writerows([("a", "b", "c"), *rows])
    path.write_bytes(file.getvalue().encode())
    table = read_csv(str(path))
    assert list(zip(table["a"], table["b"], table["c"], strict=True)) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"well,gene\nA01,PLK1,x\n", "t.csv, line 2: 3 cells, but the header has 2 columns"),
        (b"well,gene\nA01,PLK1\nA02\n", "t.csv, line 3: 1 cells, but the header has 2 columns"),
        (b'well,gene\nA01,"PLK1\nA02,x\n', "t.csv, line 3: not a readable table: unexpected end of data"),
        (b'well,gene\nA01,"PLK1"x\n', "t.csv, line 2: not a readable table"),
        (b"well,gene,well\nA01,x,A01\n", "t.csv, line 1: the column name 'well' is repeated"),
        (b"wel,gene\nA01,x\n", r"t.csv, line 1: no column 'well' \(did you mean 'wel'\?\)"),
        (b"", "t.csv, line 1: no column 'well'"),
        ("well,gene\nA01,β\n".encode("utf-16")[:-1], "t.csv, after line 1: not UTF-16 text"),
        ("well,gene\nA01,β\n".encode("utf-16-le"), "t.csv, line 1: not a readable table: a NUL character"),
        ("well,gene\n\nA01,x\nA02,é\n".encode("latin-1"), "t.csv, line 4: not UTF-8 text; it may be Latin-1, 'A02,é'"),
        (b"well,source:line\nA01,x\n", "t.csv, line 1: column 'source:line' is reserved: rename it"),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(LayoutError, match=message):
        read_csv(str(tmp_path / "t.csv"), ("well",))


def test_a_truncated_gzip_is_named(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"well\nA01\n" * 1000)[:-20])
    with pytest.raises(LayoutError, match=r"t.csv.gz: not a readable table"):
        read_csv(str(tmp_path / "t.csv.gz"), ("well",))


@given(cells=st.lists(st.tuples(CELL, st.integers(0, 99)), min_size=1, max_size=10))
def test_a_pattern_is_filled_as_format_would(cells):
    import pandas as pd

    table = pd.DataFrame(cells, columns=["plate", "site"])
    pattern = "{{x}}/{plate}/s{site:03d}_{site}_{channel}.png"
    assert filled(pattern, table, {"channel": "DNA"}).tolist() == [
        pattern.format(plate=plate, site=site, channel="DNA") for plate, site in cells
    ]


@given(st.lists(st.text(min_size=1, max_size=120), unique=True, max_size=30))
def test_any_name_has_a_key_of_its_own(names):
    from shards.layouts.well_table import KEY

    keys = [safe_key(name) for name in names]
    assert all(KEY.fullmatch(key) for key in keys)
    assert len(set(keys)) == len(names)


def test_unicode_names_of_plates_and_files(tmp_path: Path):
    (tmp_path / "Übersicht 1").mkdir()
    rows = "Versuch é,Platte ü,A01,Übersicht 1/α.tif\nVersuch è,Platte ü,A01,Übersicht 1/α.tif\n"
    (tmp_path / "wells.csv").write_text(f"experiment,plate,well,channel:β-Actin\n{rows}", encoding="utf-8")
    table = read_layout("folder", tmp_path)
    assert table.channels == ("β-Actin",)
    assert set(table.wells["experiment"]) == {"Versuch é", "Versuch è"}
    assert table.wells["key"].nunique() == 2
    assert table.wells["channel:β-Actin"].tolist() == [f"{tmp_path}/Übersicht 1/α.tif"] * 2


def gz(path: Path, *parts: tuple[bytes, int]) -> str:
    """Write a compressed table from parts that are repeated, without having all of it in memory."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for part, times in parts:
            for _ in range(times):
                file.write(part)
    return str(path)


BLOCK = bytes(b"x" * (1 << 20))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            [(b"well,gene\nA01,", 1), (BLOCK, 200)],
            "line 2: not a readable table: a row of more than 1048576 characters",
        ),
        ([(BLOCK, 200)], "line 1: not a readable table: a row of more than 1048576"),
        ([(b'well,gene\nA01,"', 1), (b"\n" * (1 << 20), 200)], "not a readable table: "),
        ([(b'"a\n",' * 1000, 300)], "not a readable table: a row of more than 1048576"),
        (
            [(b"well,gene\nA01,", 1), (b"x" * 200_000, 1)],
            r"line 2: not a readable table: field larger than field limit",
        ),
        ([(b"well" + b"".join(b",c%d" % n for n in range(100_000)), 1)], "line 1: 100001 columns; 10000 are the limit"),
        ([(b"well" + b"".join(b",c%d" % n for n in range(10**6)), 1)], "line 1: not a readable table: a row of more"),
        ([(b"well\nA01\n\0", 1)], "line 3: not a readable table: a NUL character"),
    ],
)
@pytest.mark.timeout(60)
def test_a_table_that_is_too_large_is_refused_with_little_of_it_in_memory(tmp_path, parts, message):
    path = gz(tmp_path / "t.csv.gz", *parts)
    tracemalloc.start()
    with pytest.raises(LayoutError, match=f"t.csv.gz, {message}" if message.startswith("line") else message):
        read_csv(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120_000_000


@pytest.mark.parametrize("content", [b"A01\n", b"\n"])
def test_a_compressed_table_may_not_grow_without_end(tmp_path, monkeypatch, content):
    monkeypatch.setattr(csv_tables, "MAX_UNSTATED", 100_000)
    monkeypatch.setattr(csv_tables, "MAX_RATIO", 2)
    path = gz(tmp_path / "t.csv.gz", (b"well\n", 1), (content * 10_000, 50))
    with pytest.raises(LayoutError, match=r"not a readable table: more than the [0-9]+ characters"):
        for _ in csv_parts(path):
            pass


def test_long_rows_are_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_tables, "MAX_PART", 1000)
    (tmp_path / "t.csv").write_text("a\n" + f"{'x' * 300}\n" * 10)
    assert [len(part) for part in csv_parts(str(tmp_path / "t.csv"))] == [4, 4, 2]
    monkeypatch.setattr(read_tables, "MAX_IN_MEMORY", 2000)
    with pytest.raises(LayoutError, match="more than 2000 characters; split the table"):
        read_csv(str(tmp_path / "t.csv"))


@pytest.mark.timeout(20)
def test_what_is_no_file_is_no_table(tmp_path):
    for path in not_files(tmp_path).values():
        with pytest.raises(LayoutError, match=f"{path}: not a readable table: .* not a regular file"):
            read_csv(str(path))


def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_tables, "PART_ROWS", 2)
    path = tmp_path / "t.csv"
    for change in (lambda: path.write_text("a\n5\n6\n7\n8\n"), lambda: path.open("a").write("9\n")):
        path.write_text("a\n1\n2\n3\n4\n")
        parts = csv_parts(str(path))
        assert next(parts)["a"].tolist() == ["1", "2"]
        change()
        with pytest.raises(LayoutError, match=r"t.csv: it changed while it was being read"):
            list(parts)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("{well:0999999999d}", "a width has at most two digits"), ("{well:02d}", "{well:02d}: Unknown format code 'd'")],
)
def test_a_format_that_cannot_be_met_is_refused(tmp_path, pattern, message):
    (tmp_path / "wells.csv").write_text("experiment,plate,well\ne,p,A01\n")
    with pytest.raises(LayoutError, match=re.escape(message)):
        read_layout("folder", tmp_path, pattern=f"{pattern}_{{channel}}.png", channels="DNA")
