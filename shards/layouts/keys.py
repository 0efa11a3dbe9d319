"""Keys of well images that are made from their plates, wells and sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shards.layouts.well_table import safe_key
from shards.tables.columns import filled

if TYPE_CHECKING:
    import pandas as pd


def keys_of(pattern: str, wells: pd.DataFrame) -> list[str]:
    """A key for every row by a pattern; where plates of two experiments share one, the experiments precede theirs."""
    keys = filled(pattern, wells, {})
    shared = wells["experiment"].groupby(keys).transform("nunique") > 1
    if shared.any():
        longer = wells["plate"].isin(wells.loc[shared, "plate"])
        keys = keys.mask(longer, wells["experiment"] + "_" + keys)
    return [safe_key(key) for key in keys]
