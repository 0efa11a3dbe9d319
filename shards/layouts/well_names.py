"""The normal form of a well's name: A1, a1, A01, A001 and r01c01 are all A01, and AA1 of a 1,536-well plate is AA01."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.tables.columns import ORIGIN, integers, require_cells

if TYPE_CHECKING:
    import pandas as pd

NAME = re.compile(r"(?P<row>A?[A-Z])[ -]?0*(?P<column>[1-9][0-9]?)", re.IGNORECASE)
ROWS = ("Metadata_Row", "Image_Metadata_Row", "Row", "row")
COLUMNS = (
    "Metadata_Col",
    "Metadata_Column",
    "Image_Metadata_Col",
    "Image_Metadata_Column",
    "Col",
    "Column",
    "col",
    "column",
)
"""Names of the columns that have a well's row, as a letter or a number, and its column."""
NUMBERS = re.compile(r"R0*(?P<row>[1-9][0-9]?)[ -]?C0*(?P<column>[1-9][0-9]?)", re.IGNORECASE)


def well_name(row: int, column: int) -> str:
    """Well name of a 1-based row and column: (1, 1) is A01, (27, 1) is AA01."""
    letters = ""
    while row:
        row, letter = divmod(row - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return f"{letters}{column:02d}"


def normal_well(text: str) -> str:
    """The normal form of one name; what is not the name of a well on a plate stays as it is, without blanks around."""
    text = text.strip()
    if name := NAME.fullmatch(text):
        return f"{name['row'].upper()}{int(name['column']):02d}"
    numbers = NUMBERS.fullmatch(text)
    return well_name(int(numbers["row"]), int(numbers["column"])) if numbers else text


def normal_wells(wells: pd.Series[str]) -> pd.Series[str]:
    """The normal form of every name of a column."""
    import pandas as pd

    normal = {name: normal_well(name) for name in wells.unique()}
    return pd.Series([normal[name] for name in wells], index=wells.index, dtype=str)


def wells_of(table: pd.DataFrame, aliases: Iterable[str]) -> pd.Series[str] | None:
    """The wells of a table: its first column of these names, else made from row and column; None if it has neither.

    LayoutError for a row without a letter or a number, a column without a number, or a number below 1.
    """
    import pandas as pd

    if column := _first(table, aliases):
        return table[column].str.strip()
    row, column = _first(table, ROWS), _first(table, COLUMNS)
    if row is None or column is None:
        return None
    require_cells(table, [row])
    letters = table[row].str.strip()
    for name in (row, column):
        if (zero := table[name].str.fullmatch(r"\s*0+(\.0*)?\s*")).any():
            raise LayoutError(f"{table.loc[zero, ORIGIN].iloc[0]}: {name} 0: rows and columns are counted from 1")
    numbers = integers(table.assign(**{row: letters.mask(letters.str.fullmatch("[A-Za-z]{1,2}"), "0")}), row)
    places = zip(letters, numbers, integers(table, column), strict=True)
    texts = [well_name(number, place) if number else f"{letter}{place}" for letter, number, place in places]
    return pd.Series(texts, index=table.index, dtype=str)


def _first(table: pd.DataFrame, aliases: Iterable[str]) -> str | None:
    return next((name for name in aliases if name in table), None)
