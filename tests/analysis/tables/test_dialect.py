"""What is above a header, what separates its columns, and what they are called."""

import pytest

from analysis.tables.dialect import dialect_of
from analysis.tables.errors import TableError


@pytest.mark.parametrize(
    ("text", "separator", "names", "line"),
    [
        ("a,b\n1,2\n", ",", ["a", "b"], 2),
        ("a\tb\n1,5\t2,5\n", "\t", ["a", "b"], 2),
        ("a;b, per cent\n1,5;2,5\n3,5;4\n", ";", ["a", "b, per cent"], 2),
        ("a|b\n1|2\n", "|", ["a", "b"], 2),
        ("\n# made by hand\n\na;b\n1;2\n", ";", ["a", "b"], 5),
        ("sep=;\na,x;b,y\n1;2\n", ";", ["a,x", "b,y"], 3),
        ('"a,x",b\n1,2\n', ",", ["a,x", "b"], 2),
        ('"a\nx",b\n1,2\n', ",", ["a\nx", "b"], 3),
        ("a\n1\n", ",", ["a"], 2),
        ("a,b\r1,2\r", ",", ["a", "b"], 2),
        (" a , b\n1,2\n", ",", ["a", "b"], 2),
        (",a,b\n0,1,2\n", ",", ["Unnamed: 0", "a", "b"], 2),
        ("sample\ttargets|genes\nA\tX|Y\nB\tZ\n", "\t", ["sample", "targets|genes"], 2),
        ("Image,Cells,Cells\nPlate,Area,Count\nP1,2,3\n", ",", ["Image_Plate", "Cells_Area", "Cells_Count"], 3),
        (",a,a\n,x,y\ngene,,\nG1,1,2\n", ",", ["gene", "a_x", "a_y"], 4),
        ("a\tb, in per cent\n1\tx, y\n2\tx, z\n", "\t", ["a", "b, in per cent"], 2),
        ("gene,e,e,e\n,0,1,2\nG1,.5,.6,.7\n", ",", ["gene", "e_0", "e_1", "e_2"], 3),
        (",,e,e,e\n,,1,2,3\nplate,gene,,,\nP,G1,.5,.6,.7\n", ",", ["plate", "gene", "e_1", "e_2", "e_3"], 4),
        ("one,,e,e\ntwo,,x,y\nplate,gene,,\nP,G1,.5,.6\n", ",", ["plate", "gene", "e_x", "e_y"], 4),
        (
            ",,Cells,,\nplate,well,Area,Count,Width\nP,A1,1,2,3\n",
            ",",
            ["plate", "well", "Cells_Area", "Cells_Count", "Cells_Width"],
            3,
        ),
        ("well,x,,\nA1,1,,\n", ",", ["well", "x", "Unnamed: 2", "Unnamed: 3"], 2),
    ],
)
def test_headers_of_many_kinds(text: str, separator: str, names: list[str], line: int) -> None:
    dialect = dialect_of(text.encode())
    assert (dialect.separator, list(dialect.names), dialect.line) == (separator, names, line)
    below = text.encode()[dialect.begin :].decode()
    assert text.replace("\r", "\n").count("\n") - below.replace("\r", "\n").count("\n") == line - 1


@pytest.mark.parametrize("text", ["a,b,a\n1,2,3\n", "a,b,a\n", " a,b,a\nx,y,x\n", "a,a\nx,x\n1,2\n", "w,a,a\nA1,0,1\n",
                                  "w,a,a,a\nA1,0,1,3\n"])  # fmt: skip
def test_two_columns_of_one_name_are_refused(text: str) -> None:
    with pytest.raises(TableError, match="several columns are called 'a'"):
        dialect_of(text.encode())


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_a_table_without_a_header_is_refused(text: str) -> None:
    with pytest.raises(TableError, match="line 1: the header is ''"):
        dialect_of(text.encode())
