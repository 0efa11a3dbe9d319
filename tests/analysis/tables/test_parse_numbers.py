"""Numbers as people write them; a column is read one way, and what cannot be read is named."""

import numpy as np
import pyarrow as pa
import pytest

from analysis.tables.errors import TableError
from analysis.tables.parse_numbers import (
    DECIMAL,
    UNCLEAR,
    Hint,
    Numbers,
    checked,
    hint_of,
    is_missing,
    number,
    parse_numbers,
)

UNKNOWN = Hint()


def column(*texts: str | None) -> pa.ChunkedArray:
    return pa.chunked_array([list(texts)], pa.string())


def parsed(*texts: str | None, hint: Hint = UNKNOWN) -> Numbers:
    return parse_numbers(column(*texts), hint)


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (("5,88e+17", "3,072e+18"), (5.88e17, 3.072e18)),
        (("3,319", "3,09"), (3.319, 3.09)),  # a comma before two digits is no thousands separator
        (("3,319", "2,9005"), (3.319, 2.9005)),
        (("0,319", "0,123"), (0.319, 0.123)),  # a group of thousands does not begin with 0
        (("1.234,5", "1.000.000"), (1234.5, 1e6)),
        (("1,234.5", "1,000,000"), (1234.5, 1e6)),
        (("1,000", "2.5"), (1000, 2.5)),
        (("52M", "1.3B", "7k"), (52e6, 1.3e9, 7e3)),
        (("45%", "0", "50 %"), (45, 0, 50)),
        (("1 000", "2\u00a0000\u00a0000", "1'000", "1_000"), (1e3, 2e6, 1e3, 1e3)),
        (("\u22123.5", "+2", "-.5"), (-3.5, 2, -0.5)),
        (("1D+05", "1E5", " 7 "), (1e5, 1e5, 7)),
    ],
)
def test_a_column_is_read_in_the_way_that_its_numbers_show(texts: tuple[str, ...], values: tuple[float, ...]) -> None:
    numbers = parsed(*texts)
    np.testing.assert_allclose(numbers.values, values, rtol=1e-15)
    assert (numbers.words, numbers.faults, numbers.assumed) == ({}, {}, None)


def test_commas_that_could_be_either_are_what_the_rest_of_the_table_shows() -> None:
    assert parsed("3,319", hint=DECIMAL).values == [3.319]
    assert parsed("3,319", hint=Hint("thousands", certain=True)).values == [3319]
    assert (parsed("3,319").values, parsed("3,319").assumed) == ([3319], "3,319")
    assert parsed("3.319").values == [3.319]
    assert parsed("3.319", hint=Hint("decimal")).values == [3.319]  # semicolons alone do not make points thousands
    assert "a fraction or thousands" in parsed("3.319", hint=DECIMAL).faults[0]
    assert "'3,319', a fraction or thousands" in parsed("3,319", hint=UNCLEAR).faults[0]
    assert parsed("3,319", "2,5", hint=UNCLEAR).values.tolist() == [3.319, 2.5]
    assert parsed("3.319", hint=UNCLEAR).values == [3.319]


THOUSANDS = Hint("thousands", certain=True)


@pytest.mark.parametrize(
    ("columns", "separator", "hint"),
    [
        ((["a", "b"], ["1,5"]), "\t", DECIMAL),
        ((["1.5"], ["3,319"]), "\t", THOUSANDS),
        ((["3,319"],), ";", Hint("decimal")),
        ((["3,319"],), ",", Hint()),
        ((["3,319"], ["52000000"]), "\t", UNCLEAR),  # nothing says
        ((["1,000"], ["3.319"]), "\t", Hint()),
        ((["1,000"], ["3.319"]), ";", DECIMAL),
        ((["1.5"], ["1,5"]), ";", UNCLEAR),
        ((["3,319"], ["2.5"]), ";", UNCLEAR),  # why then the semicolons?
        ((["1,234.5"], ["3,319"]), ";", THOUSANDS),
        ((["3.319"], ["0,1"]), ",", Hint("decimal")),  # a list of two GPUs: not certain
        ((["52,000"], ["3.31"], ["0,1"]), ",", Hint()),
        ((["3,319"], ["2.5.1"], ["26.11.2026"], ["10.0.0.1"], ["1,2,3"]), ";", Hint("decimal")),
        ((["3,319"], ["a", "b", "1.5"]), ";", Hint("decimal")),
        ((["3,319"], ["1.5", "diverged"]), "|", THOUSANDS),
    ],
)
def test_what_commas_are_in_a_table(columns: tuple[list[str], ...], separator: str, hint: Hint) -> None:
    assert hint_of([column(*texts) for texts in columns], separator) == hint


@pytest.mark.parametrize(
    ("texts", "row", "fault"),
    [
        (("1,5", "1.25"), 1, "'1.25' and '1,5', which use commas and points in two ways"),
        (("1.234.567", "2.5"), 1, "which use commas and points in two ways"),
        (("3,319", "3.091"), 1, "'3.091' and '3,319', which use commas and points in two ways"),
        (("1", "3.4.5"), 1, "'3.4.5', which is not a number"),
        (("1,00,000",), 0, "'1,00,000', which is not a number"),
        (("~3",), 0, "'~3', which is not a number"),
        (("12 (est.)",), 0, "which is not a number"),
        (("3.2 ± 0.1",), 0, "which is not a number"),
        (("1 2",), 0, "which is not a number"),
        (("45%", "0.45"), 1, "'0.45' without a per cent sign and '45%' with one"),
    ],
)
def test_what_was_meant_as_a_number_and_cannot_be_read_is_a_fault(texts: tuple[str, ...], row: int, fault: str) -> None:
    numbers = parsed(*texts)
    assert fault in numbers.faults[row]
    with pytest.raises(TableError, match=f"line {row + 2}: column 'x' holds "):
        checked(numbers, "column 'x'", lambda row: f"line {row + 2}", "missing")


@pytest.mark.parametrize(
    "text",
    ["", "NA", "n/a", "NaN", "None", "null", "-", "#DIV/0!", "#N/A", "#NUM!", "-nan(ind)", "nan(snan)", "1.#QNAN",
     "-1.#IND", "1.#INF", "inf", "-Infinity", "<NA>", "?", "(null)", "*", "-\u221e", "#\u00a1DIV/0!"],
)  # fmt: skip
def test_words_for_a_missing_number(text: str) -> None:
    assert is_missing(text)
    numbers = parsed("1.5", text, None)
    assert not np.isfinite(numbers.values[1:]).any()
    assert (numbers.words, numbers.faults) == ({}, {})


def test_other_words_are_missing_or_refused_as_the_caller_says() -> None:
    numbers = parsed("1.5", "diverged")
    assert (numbers.words, numbers.faults) == ({1: "diverged"}, {})
    np.testing.assert_array_equal(checked(numbers, "loss", str, "missing"), [1.5, np.nan])
    with pytest.raises(
        TableError, match="1: loss holds 'diverged', which is not a number; leave a missing value blank"
    ):
        checked(numbers, "loss", str, "refuse")


def test_columns_that_are_no_text_are_numbers_already() -> None:
    for values, expected in (([1, None], [1, np.nan]), ([True, False], [1, 0]), ([2**60 + 1], [float(2**60)])):
        np.testing.assert_array_equal(parse_numbers(pa.chunked_array([values])).values, expected)
    assert "list" in parse_numbers(pa.chunked_array([[[1.0], [2.0]]])).faults[0]


def test_one_number_of_a_command_line() -> None:
    assert (number("1,000"), number("1e21"), number("70B"), number("45%")) == (1e3, 1e21, 70e9, 45)
    assert np.isnan(number("many"))
