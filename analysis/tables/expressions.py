"""Tables for expressions that select rows: text as it was written becomes numbers, booleans and missing values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analysis.tables.names import names_of
from analysis.tables.parse_numbers import Hint, parse_numbers
from analysis.tables.series import column_of

if TYPE_CHECKING:
    import pandas as pd

BOOLEANS = {"true": True, "false": False}


def typed(table: pd.DataFrame, hint: Hint) -> pd.DataFrame:
    """The table for an expression: columns of numbers as numbers, of true and false as booleans, others as text.

    A blank is a missing value, as in pandas.
    """
    import pandas as pd

    return pd.DataFrame({name: _typed_column(table, name, hint) for name in table.columns})


def _typed_column(table: pd.DataFrame, name: str, hint: Hint) -> npt.NDArray[Any] | pd.Series:
    import pandas as pd

    column = column_of(table[name])
    parsed = parse_numbers(column, hint)
    if not (parsed.words or parsed.faults) and not pa.types.is_boolean(column.type):
        return parsed.values
    texts = [str(text) or None for text in names_of(column, name)]
    words = {None if text is None else text.lower() for text in texts}
    if words <= BOOLEANS.keys():
        return np.array([BOOLEANS[str(text).lower()] for text in texts])
    if words <= {*BOOLEANS, None}:
        return np.array([None if text is None else BOOLEANS[text.lower()] for text in texts], dtype=object)
    return pd.Series(texts, dtype=pd.StringDtype(na_value=np.nan))
