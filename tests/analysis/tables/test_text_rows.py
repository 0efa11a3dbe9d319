"""Rows keep their cells and their lines; rows that are too long are refused, short ones are known."""

import pytest

from analysis.tables.dialect import dialect_of
from analysis.tables.errors import TableError
from analysis.tables.text_rows import TextColumns, read_rows


def rows(text: str) -> TextColumns:
    return read_rows(text.encode(), dialect_of(text.encode()))


def cells(table: TextColumns) -> list[tuple[str, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.mark.parametrize(
    ("text", "expected", "lines"),
    [
        ("a,b\n1,NA\n,nan\n", [("1", "NA"), ("", "nan")], [2, 3]),
        ("a,b\n1,2\n\n3,4", [("1", "2"), ("3", "4")], [2, 4]),
        ('a,b\n"x\ny",2\n3,4\n', [("x\ny", "2"), ("3", "4")], [2, 4]),
        ('a, b\n1, "2,5"\n', [("1", "2,5")], [2]),
        ("a,b\r\n1,2\r\n", [("1", "2")], [2]),
        ("a,b\r1,2\r3,4\r", [("1", "2"), ("3", "4")], [2, 3]),
        ("a,b\n1\n2,3\n", [("1", ""), ("2", "3")], [2, 3]),
        ('a,b\n"say ""x""",2\n', [('say "x"', "2")], [2]),
        ("a|b\n--|:-:\n1|2\n", [("1", "2")], [3]),
    ],
)
def test_rows_and_their_lines(text: str, expected: list[tuple[str, ...]], lines: list[int]) -> None:
    table = rows(text)
    assert (cells(table), table.lines.tolist()) == (expected, lines)


def test_a_separator_at_the_end_of_each_line_makes_no_column() -> None:
    table = rows("a,b,\n1,2,\n3,4,\n")
    assert (table.names, cells(table)) == (("a", "b"), [("1", "2"), ("3", "4")])
    table = rows("a,b\n1,2,\n3,4,\n")
    assert (table.names, cells(table)) == (("a", "b"), [("1", "2"), ("3", "4")])


def test_a_table_in_markdown_has_no_columns_at_its_edges() -> None:
    table = rows("| size | loss |\n|------|-----:|\n| 70M | 3.3 |\n| 1.3B | 2.7 |\n")
    assert table.names == ("size", "loss")
    assert [tuple(cell.strip() for cell in row) for row in cells(table)] == [("70M", "3.3"), ("1.3B", "2.7")]


def test_the_names_of_rows_that_r_writes_are_a_column() -> None:
    table = rows("a,b\nx,1,2\ny,3,4\n")
    assert (table.names, cells(table)) == (("Unnamed: row", "a", "b"), [("x", "1", "2"), ("y", "3", "4")])


def test_a_short_row_is_known_and_a_long_one_refused() -> None:
    assert rows("a,b\n1,2\n3\n").short == (1,)
    with pytest.raises(TableError, match="line 3: 3 fields, the header has 2"):
        rows("a,b\n1,2\n3,4,5\n")


def test_a_quote_without_an_end_takes_no_rows_with_it() -> None:
    with pytest.raises(TableError, match="line"):
        rows('a,b\n1,2\n"3,4\n5,6\n')
