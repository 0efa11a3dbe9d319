"""CSV tables in which a spreadsheet finds no formulas.

Text that begins with one of `FORMULA` gets an apostrophe in front, which spreadsheets take as "this is text" (OWASP,
"CSV Injection"). Text that begins with an apostrophe gets one too, so that `from_csv_text` restores every text.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FORMULA = tuple("=+-@\t\r\n＝＋－＠'")


def csv_text(text: str) -> str:
    """The text as it is written in a cell."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


def from_csv_text(cell: str) -> str:
    """The text that a cell was written from."""
    return cell[1:] if cell.startswith("'") else cell


def csv_table(table: pd.DataFrame) -> str:
    """The table as CSV, its text in quotes. Numbers stay as they are, and missing values are empty."""
    safe = table.map(lambda value: csv_text(value) if isinstance(value, str) else value)
    return safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)
