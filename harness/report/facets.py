"""Facets: the parts of a study at one point of the grid's axes each. A law describes one facet.

Figures and page show a panel for each source and facet. Baselines stand in every facet that they fit: an untrained
network has a mask ratio, if that is an axis, and no learning rate. So do states whose rate had not decayed, such as
snapshots of a trunk that the values on an axis share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from harness.recipe.axes import point_name

if TYPE_CHECKING:
    import pandas as pd


def facets(table: pd.DataFrame, axes: Sequence[str]) -> dict[str, dict[str, JsonValue]]:
    """The points of the trained cells of a table, by name and in its order; one without a name if there are no axes."""
    import pandas as pd

    trained = table[table["trained"].astype(bool)] if "trained" in table else table
    own = trained[~_shared(trained, axes)]
    trained = own if len(own) else trained
    places = trained[list(axes)].drop_duplicates().to_dict("records") if axes else [{}]
    named = [{str(name): None if pd.isna(value) else value for name, value in place.items()} for place in places]
    return {point_name(place): place for place in named}


def by_facet(table: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """The points with a column `facet`, and with the facet in the name of their source; baselines once per facet."""
    import pandas as pd

    parts = [_part(table, name, place) for name, place in facets(table, axes).items()]
    return pd.concat(parts, ignore_index=True) if axes and parts else table.assign(facet="")


def _shared(table: pd.DataFrame, axes: Sequence[str]) -> pd.Series[bool]:
    """Which rows are states that had not decayed, and lie off an axis."""
    from analysis.fitting.annealing import unannealed

    return table[list(axes)].isna().any(axis=1) & unannealed(table)


def _part(table: pd.DataFrame, name: str, place: Mapping[str, JsonValue]) -> pd.DataFrame:
    from analysis.figures.recall import FACET

    trained = table["trained"].astype(bool) & ~_shared(table, list(place))
    fits = trained | ~trained
    for axis, value in place.items():
        here = table[axis].isna() if value is None else table[axis] == value
        fits &= here | (~trained & table[axis].isna())
    return table[fits].assign(facet=name, source=lambda rows: rows["source"] + FACET + name)
