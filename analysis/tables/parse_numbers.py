"""A column as numbers: decimal points or commas, separated thousands, `370M`, `45%`, and words for a missing value.

A column is read one way throughout. A comma that is not followed by exactly three digits is a decimal comma; where
each comma of a column could be either, the rest of the table decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analysis.arrays import Floats
from analysis.tables.errors import TableError
from analysis.tables.list_columns import is_vector

Comma = Literal["decimal", "thousands"]
Words = Literal["missing", "refuse"]
"""What a word that is no number, such as `diverged`, is: a missing value, or an error."""
Evidence = Literal["decimal", "thousands", "fraction", "either", "point"]
"""What numbers show: what commas are, that points are decimal, or a comma or a point that could be both."""

MOST_QUOTED = 60
"""Characters of a cell in a message."""
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
SPACES = " \u00a0\u2009\u202f'\u2019_"
"""What may stand between groups of three digits, besides commas and points."""
WRITTEN = re.compile(
    rf"(?P<sign>[-+]?)(?P<mantissa>\d[\d.,{SPACES}]*|[.,]\d+)(?P<exponent>[eEdD][-+]?\d+)?"
    r"\s*(?P<unit>[kKmMbBgGtT]?)\s*(?P<percent>%?)"
)
GROUPED = {mark: re.compile(rf"[1-9]\d{{0,2}}({re.escape(mark)}\d{{3}})+") for mark in ",."}
SPACED = re.compile(rf"(\d{{1,3}})((?P<space>[{SPACES}])\d{{3}}((?P=space)\d{{3}})*)?(?P<rest>[.,]\d*)?")
MISSING = frozenset(
    {"", "-", "--", "\u2013", "\u2014", "?", ".", "\\n", "na", "n/a", "n.a.", "<na>", "nan", "none", "null", "nil",
     "missing", "nd", "n.d.", "nat", "inf", "infinity", "\u221e", "(null)", "*"}
)  # fmt: skip
ERRORS = re.compile(r"#[\u00a1\u00bf]?[A-Z0-9/_]+[!?]?|1\.?#\w+|s?nan(\(\w*\))?", re.IGNORECASE)
"""A missing value of a spreadsheet (`#DIV/0!`) or of a C library (`nan(ind)`, `1.#QNAN`), without its sign."""


@dataclass(frozen=True)
class Hint:
    """What the commas in the other columns of a table are."""

    comma: Comma | Literal["unclear"] | None = None  # unclear: a column that does not show it itself is refused
    certain: bool = False  # whether numbers in the table show it, rather than what separates its columns


DECIMAL = Hint("decimal", certain=True)
UNCLEAR = Hint("unclear", certain=True)


@dataclass(frozen=True)
class Numbers:
    """A column as numbers, and the rows that could not be read."""

    values: Floats  # (rows,) NaN where a value is missing or could not be read
    words: dict[int, str]  # text of the rows that hold a word that is no number, by row
    faults: dict[int, str]  # what is wrong with rows that were meant as numbers, by row
    assumed: str | None = None  # a text whose comma was taken to separate thousands, which the column does not show


def parse_numbers(column: pa.ChunkedArray, hint: Hint = Hint()) -> Numbers:
    """Read a column of text, numbers or booleans as numbers; lists are a fault of the first row."""
    if not pa.types.is_string(column.type):
        if is_vector(column.type):
            return Numbers(np.full(len(column), np.nan), {}, {0: "a list where one number is needed"})
        return Numbers(_floats(column.cast(pa.float64(), safe=False)), {}, {})
    if hint == DECIMAL:  # then a point may separate thousands
        return _of_text(_trimmed(column), hint)
    try:
        return Numbers(_floats(column.cast(pa.float64())), {}, {})
    except pa.ArrowInvalid:
        pass
    text = _trimmed(column)
    try:
        return Numbers(_floats(pc.if_else(pc.equal(text, ""), None, text).cast(pa.float64())), {}, {})
    except pa.ArrowInvalid:
        return _of_text(text, hint)


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_trim_whitespace(pc.fill_null(column, ""))


def checked(numbers: Numbers, label: str, place: Callable[[int], str], words: Words) -> Floats:
    """The values, once nothing was misread.

    Args:
        numbers: of one column.
        label: what a message calls the column.
        place: where a row is in the file.
        words: whether words that are no numbers are missing values.

    Raises:
        TableError: the first row that cannot be read, with its place.
    """
    faults = numbers.faults | ({} if words == "missing" else _word_faults(numbers.words))
    if faults:
        row = min(faults)
        raise TableError(f"{place(row)}: {label} holds {faults[row]}")
    return numbers.values


def number(text: str) -> float:
    """A number as people write it: `1,000`, `52M`, `1.3B`, `45%`; NaN where it is none."""
    return _value(_normal(text), "thousands")


def hint_of(columns: Iterable[pa.ChunkedArray], separator: str | None) -> Hint:
    """What commas are in a table with these columns: what its numbers show where they all agree.

    Where semicolons separate columns and nothing else is known, commas are decimal: that is why there are semicolons.
    Where commas separate columns, points are decimal, and a cell such as "0,1" may be a list.
    """
    shown = set[Evidence]().union(*(_evidence(column) for column in columns if pa.types.is_string(column.type)))
    thousands, decimal, points = "thousands" in shown, "decimal" in shown, "fraction" in shown
    if separator == ",":
        return Hint() if decimal == (thousands or points) else Hint("decimal") if decimal else Hint("thousands", True)
    if decimal:
        return UNCLEAR if thousands or points else DECIMAL
    if thousands or (points and separator != ";"):
        return Hint("thousands", certain=True)
    if separator == ";":
        return UNCLEAR if points else Hint("decimal", certain={"either", "point"} <= shown)
    return Hint() if "point" in shown or separator is None else UNCLEAR


def _evidence(column: pa.ChunkedArray) -> set[Evidence]:
    """What the numbers of a column show; nothing in one of words, addresses, dates, versions or lists."""
    texts = [text for text in map(_normal, pc.unique(_trimmed(column)).to_pylist()) if not is_missing(text)]
    readable = [text for text in texts if _mantissa(text) and (_shows(text) or not re.search(r",|\..*\.", text))]
    others = set(texts).difference(readable)
    if len(others) > len(readable) or any(map(_is_meant, others)):
        return set()
    shown = {(_shows(text), "," in text) for text in readable}
    of_points: dict[object, Evidence] = {"thousands": "fraction", "point": "point", "decimal": "decimal"}
    of_commas: dict[object, Evidence] = {"thousands": "thousands", "decimal": "decimal", "either": "either"}
    uses = ((of_commas if has_comma else of_points).get(use) for use, has_comma in shown)
    return {use for use in uses if use}


def is_missing(text: str) -> bool:
    """Whether a text stands for a missing number."""
    unsigned = text.strip().lower()
    unsigned = unsigned[1:] if unsigned[:1] in ("-", "+") and len(unsigned) > 1 else unsigned
    return unsigned in MISSING or ERRORS.fullmatch(unsigned) is not None


def _floats(column: pa.ChunkedArray) -> Floats:
    values = pc.fill_null(column, float("nan")) if column.null_count else column
    return np.array(values.to_numpy(), dtype=np.float64)


def _of_text(column: pa.ChunkedArray, hint: Hint) -> Numbers:
    """Read each distinct text once."""
    encoded = column.combine_chunks().dictionary_encode()
    texts = [_normal(text) for text in encoded.dictionary.to_pylist()]
    code: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    shows = [_shows(text) for text in texts]
    comma, assumed = _one_use(shows, hint)
    values = np.array([_value(text, comma) for text in texts])
    faults = _faults(texts, values, shows, hint)
    words = {n for n, text in enumerate(texts) if np.isnan(values[n]) and not is_missing(text) and n not in faults}
    values[list(faults)] = np.nan
    example = next((text for text, use in zip(texts, shows, strict=True) if use == "either"), None)
    return Numbers(
        values[code], _rows(code, {n: texts[n] for n in words}), _rows(code, faults), example if assumed else None
    )  # fmt: skip


def _rows(code: NDArray[np.int64], by_text: dict[int, str]) -> dict[int, str]:
    """What is said of each distinct text, by the rows that hold it."""
    rows = np.flatnonzero(np.isin(code, list(by_text)))
    return {int(row): by_text[int(code[row])] for row in rows}


def _normal(text: str) -> str:
    return text.strip().replace("\u2212", "-")


def _mantissa(text: str) -> tuple[re.Match[str], str] | None:
    """A number's parts, and its digits without spaces between groups of three; None where it is no number."""
    match = WRITTEN.fullmatch(text)
    if match is None:
        return None
    mantissa = match["mantissa"].rstrip(SPACES)
    if any(space in mantissa for space in SPACES):
        if not SPACED.fullmatch(mantissa):
            return None
        mantissa = re.sub(f"[{SPACES}]", "", mantissa)
    return match, mantissa


def _shows(text: str) -> Comma | Literal["either", "point"] | None:
    """What a number shows its commas to be: a point that could be either is `point`."""
    parts = _mantissa(text)
    if parts is None:
        return None
    match, digits = parts
    commas, points = digits.count(","), digits.count(".")
    if commas and points:
        mark = "," if digits.rindex(",") < digits.rindex(".") else "."
        whole = digits[: digits.rindex("." if mark == "," else ",")]
        return ("thousands" if mark == "," else "decimal") if GROUPED[mark].fullmatch(whole) else None
    if not commas and not points:
        return None
    mark, several = ("," if commas else "."), max(commas, points) > 1
    grouped = GROUPED[mark].fullmatch(digits) is not None and not match["exponent"]
    if several:
        return None if not grouped else "thousands" if commas else "decimal"
    if grouped:
        return "either" if commas else "point"
    return "decimal" if commas else "thousands"


def _one_use(shows: Sequence[str | None], hint: Hint) -> tuple[Comma, bool]:
    """What the commas of a column are, and whether that was assumed."""
    if "decimal" in shows:
        return "decimal", False
    if "thousands" in shows or "either" not in shows:
        return "thousands", False
    return ("decimal", False) if hint.comma == "decimal" else ("thousands", True)


def _value(text: str, comma: Comma) -> float:
    """The number that a text is under this use of commas; NaN where it is none."""
    parts = _mantissa(text)
    if parts is None:
        return np.nan
    match, digits = parts
    if _shows(text) is None and ("," in digits or digits.count(".") > 1):
        return np.nan
    thousands, mark = (",", ".") if comma == "thousands" else (".", ",")
    written = digits.replace(thousands, "").replace(mark, ".")
    try:
        value = float(f"{match['sign']}{written}{(match['exponent'] or '').replace('d', 'e').replace('D', 'e')}")
    except ValueError:
        return np.nan
    return value * UNITS[match["unit"].lower()]


def _faults(
    texts: Sequence[str], values: Floats, shows: Sequence[str | None], hint: Hint
) -> dict[int, str]:  # fmt: skip
    """What is wrong with texts that were meant as numbers, by their position."""
    faults = {
        n: f"{_short(text)!r}, which is not a number"
        for n, text in enumerate(texts)
        if np.isnan(values[n]) and _is_meant(text)
    }
    first = {use: n for n, use in reversed(list(enumerate(shows)))}
    if "decimal" in first and "thousands" in first:
        later, earlier = sorted((first["decimal"], first["thousands"]), reverse=True)
        faults[later] = _two_ways(texts[later], texts[earlier])
    elif "either" in first and "point" in first and not {"decimal", "thousands"} & first.keys():
        later, earlier = sorted((first["either"], first["point"]), reverse=True)
        faults[later] = _two_ways(texts[later], texts[earlier])
    elif hint == UNCLEAR and "either" in first and not {"decimal", "thousands"} & first.keys():
        n = first["either"]
        faults[n] = f"{texts[n]!r}, a fraction or thousands: the rest of the table does not say which"
    elif hint == DECIMAL and "decimal" not in first and "point" in first:
        n = first["point"]
        faults[n] = f"{texts[n]!r}, a fraction or thousands: commas are decimal elsewhere in the table"
    per_cent = {n for n, text in enumerate(texts) if text.endswith("%") and not np.isnan(values[n])}
    others = [n for n in range(len(texts)) if n not in per_cent and not np.isnan(values[n]) and values[n] != 0]
    if per_cent and others:
        n = others[0]
        faults[n] = f"{texts[n]!r} without a per cent sign and {texts[min(per_cent)]!r} with one; write both alike"
    return faults


def _two_ways(text: str, other: str) -> str:
    return f"{text!r} and {other!r}, which use commas and points in two ways; write both alike"


def _short(text: str) -> str:
    return text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}..."


def _is_meant(text: str) -> bool:
    """Whether a text that is no number was meant as one: `3.4.5`, `~3`, `12 (est.)`, but not `run 3`."""
    first = re.search(r"[^\W_]", text)
    return first is not None and first[0].isdigit() and not is_missing(text)


def _word_faults(words: dict[int, str]) -> dict[int, str]:
    return {
        row: f"{_short(text)!r}, which is not a number; leave a missing value blank, or write NA"
        for row, text in words.items()
    }
