"""Tables of wells from files: metadata, features, and counts of what was left out.

Legend: W wells, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analysis.arrays import Floats, Mask
from analysis.tables.errors import TableError
from analysis.tables.feature_columns import feature_columns
from analysis.tables.list_columns import is_vector
from analysis.tables.names import BLANK, base_name, joined_name, name_of
from analysis.tables.read_table import Table, read_table

if TYPE_CHECKING:
    import pandas as pd

PLACES = ("source", "batch", "experiment", "plate", "well")  # columns that tell wells apart
SITES = ("site", "field", "fov", "fieldofview", "tile", "position", "series", "image")
"""Columns that tell a well's fields of view apart; the first that a table has. Their names may end in `ENDINGS`."""
ENDINGS = ("id", "number", "no", "index")


class FeatureTableError(TableError):
    """A table of wells that cannot be used; the message names the file and what would be right."""


@dataclass(frozen=True)
class Excluded:
    """What was left out before anything was computed."""

    features_not_everywhere: int = 0  # of columns that only some of the files have
    features_with_missing: int = 0  # columns with a missing value in a well that was kept
    wells_without_values: int = 0  # wells most of whose values are missing


@dataclass(frozen=True)
class FeatureTable:
    """Wells, or fields of view of wells, with finite features."""

    metadata: pd.DataFrame  # of names: text, blank where there is none
    names: list[str]
    features: Floats  # (W, D)
    excluded: Excluded
    not_features: tuple[str, ...] = ()  # columns that hold numbers and were not taken for features

    def column(self, name: str) -> pd.Series:
        """A column of the metadata, by its name with or without "Metadata_", in any case, with _ or spaces.

        Raises:
            FeatureTableError: there is none, or several; the message lists the columns.
        """
        return self.metadata[self.column_name(name)]

    def column_name(self, name: str) -> str:
        """The name under which the metadata has a column; errors as `column`."""
        if name in self.metadata:
            return name
        for spelt in (base_name, joined_name):
            same = [str(other) for other in self.metadata.columns if spelt(other) == spelt(name)]
            if len(same) == 1:
                return same[0]
            if same:
                raise FeatureTableError(f"several columns are called {name!r}: {', '.join(same)}; give one in full")
        known = ", ".join(map(str, self.metadata.columns))
        raise FeatureTableError(f"no column {name!r}; the metadata has {known}")

    def where(self, keep: Mask) -> FeatureTable:
        """Only these wells."""
        return replace(self, metadata=self.metadata[keep].reset_index(drop=True), features=self.features[keep])

    def wells(self) -> NDArray[np.int64]:
        """A number for each row's well, (W,): fields of view of one well have the same."""
        by_base = _by_base(self.metadata)
        places = [by_base[name] for name in PLACES if name in by_base]
        columns = places if {"plate", "well"} <= by_base.keys() else [by_base["key"]] if "key" in by_base else []
        if not columns or not self.site_column():
            return np.arange(len(self.metadata))
        return self.metadata.groupby(columns, sort=False).ngroup().to_numpy().astype(np.int64)

    def site_column(self) -> list[str]:
        """The column that tells a well's fields of view apart; empty where there is none."""
        return _site_column(self.metadata)

    def of_wells(self) -> FeatureTable:
        """The mean of each well's fields of view; metadata are those of its first field."""
        code = self.wells()
        first = np.unique(code, return_index=True)[1]
        if len(first) == len(code):
            return self
        sums = np.zeros((len(first), self.features.shape[1]))
        np.add.at(sums, code, self.features)
        means: Floats = sums / np.bincount(code)[:, None]
        return replace(self, metadata=self.metadata.iloc[first].reset_index(drop=True), features=means)

    def describe(self) -> dict[str, object]:
        """Features and what else holds numbers, for a summary: counts and the first names."""
        return {
            "features": len(self.names), "first_features": self.names[:3], "not_features": len(self.not_features),
            "first_not_features": list(self.not_features[:8]),
        }  # fmt: skip


def read_wells(paths: Sequence[Path], prefix: str | None = None) -> FeatureTable:
    """Read tables of wells, one after another, in any dialect that `analysis.tables` knows.

    Which columns are features: `analysis.tables.feature_columns`. All others become names. Features that a file lacks
    are left out, then wells with most values missing or infinite, then features with such a value in any other well;
    all are counted.

    Raises:
        FeatureTableError: a file that cannot be read, has no features or shares none with the others, a value of a
            feature that is not a number, or a well that occurs twice.
    """
    try:
        parts = [_read_part(path, prefix) for path in paths]
    except TableError as error:
        raise FeatureTableError(str(error)) from error
    common = set(parts[0].names).intersection(*(part.names for part in parts[1:]))
    shared = [name for name in parts[0].names if name in common]
    if not shared:
        raise FeatureTableError(f"{paths[0]} and the other files have no feature in common")
    everything = {name for part in parts for name in part.names}
    wells = _concatenated(parts, shared, Excluded(len(everything) - len(shared)))
    _check_unique(wells.metadata, paths)
    return _finite(wells, paths)


def _concatenated(parts: Sequence[FeatureTable], shared: list[str], excluded: Excluded) -> FeatureTable:
    import pandas as pd

    metadata = pd.concat(_alike(parts), ignore_index=True).fillna("")
    blocks = [_columns(part, shared) for part in parts]
    values = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    not_features = tuple(dict.fromkeys(name for part in parts for name in part.not_features))
    return FeatureTable(metadata, shared, values, excluded, not_features)


def _alike(parts: Sequence[FeatureTable]) -> list[pd.DataFrame]:
    """The parts' metadata; columns that differ in prefix and case only are called as in the first part with them."""
    given: dict[str, str] = {}
    tables = []
    for table in (part.metadata for part in parts):
        bases = {str(name): base_name(str(name)) for name in table.columns}
        once = [name for name, base in bases.items() if list(bases.values()).count(base) == 1]
        tables.append(table.rename(columns={name: given.setdefault(bases[name], name) for name in once}))
    return tables


def _columns(part: FeatureTable, names: list[str]) -> Floats:
    if part.names == names:
        return part.features
    position = {name: number for number, name in enumerate(part.names)}
    return part.features[:, [position[name] for name in names]]


def _read_part(path: Path, prefix: str | None) -> FeatureTable:
    """One file's wells as they are."""
    import pandas as pd

    table = read_table(path)
    chosen = feature_columns(table, prefix)
    names, blocks = list[str](), list[Floats]()
    for name in chosen.names:
        block = _feature_block(table, name)  # (W, elements)
        blocks.append(block)
        names += [name] if not is_vector(table.column(name).type) else [f"{name}_{n}" for n in range(block.shape[1])]
    features = frozenset(chosen.names)
    described = [name for name in table.names if name not in features]
    metadata = pd.DataFrame({name: pd.Series(table.texts(name), dtype=object) for name in described})
    values = np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]
    return FeatureTable(metadata, names, values, Excluded(), chosen.left_out)


def _feature_block(table: Table, name: str) -> Floats:
    column = table.column(name)
    if pa.types.is_boolean(column.type):
        raise TableError(f"{table.source}: feature {name!r} holds bool where numbers are needed")
    return table.vectors(name) if is_vector(column.type) else table.numbers(name, label=f"feature {name!r}")[:, None]


def parse_control(text: str) -> tuple[str, str]:
    """COLUMN=VALUE. Raises FeatureTableError for anything else."""
    column, equals, value = text.partition("=")
    if not (column and equals):
        raise FeatureTableError(f"controls must be given as COLUMN=VALUE, not {text!r}")
    return column, value


def controls(wells: FeatureTable, named: tuple[str, str]) -> Mask:
    """True for the wells whose column holds the value; a blank value names blank cells.

    Raises:
        FeatureTableError: no such column, or no such well in it.
    """
    column, value = named
    names = wells.column(column)
    matching: Mask = (names == name_of(value, column)).to_numpy(bool)
    if not matching.any():
        common = [name or BLANK for name in names.value_counts().index[:5]]
        raise FeatureTableError(f"no well has {column}={value}; {column} holds {', '.join(common)}, ...")
    return matching


def filled(wells: FeatureTable, column: str) -> pd.Series:
    """A column in which every well must have a name.

    Raises:
        FeatureTableError: no such column, or wells without a name in it; their number and the first are named.
    """
    names = wells.column(column)
    blank = (names == "").to_numpy(bool)
    if blank.any():
        row = wells.metadata[blank].iloc[0]
        named = [f"{name} {row[name]}" for name in _identity(wells.metadata) if row[name]]
        which = ", ".join(named) or f"number {np.argmax(blank) + 1}"
        raise FeatureTableError(f"{int(blank.sum())} of {len(names)} wells have no {column}, the first is {which}")
    return names


def _identity(metadata: pd.DataFrame) -> list[str]:
    """The columns that tell rows apart: key, or plate and well (and experiment); with the field of view."""
    by_base = _by_base(metadata)
    sites = _site_column(metadata)
    if "key" in by_base:
        return [by_base["key"], *sites]
    if {"plate", "well"} <= by_base.keys():
        return [by_base[name] for name in PLACES if name in by_base] + sites
    return []


def _site_column(metadata: pd.DataFrame) -> list[str]:
    """The column of fields of view, if there is one. `image` alone would be a file."""
    by_name = {joined_name(str(name)): str(name) for name in reversed(metadata.columns)}
    names = (stem + ending for stem in SITES for ending in ("", *ENDINGS) if stem + ending != "image")
    return [by_name[name] for name in names if name in by_name][:1]


def _by_base(metadata: pd.DataFrame) -> dict[str, str]:
    """Columns by their names without prefixes; the first where two are left with one name."""
    return {base_name(str(name)): str(name) for name in reversed(metadata.columns)}


def _check_unique(metadata: pd.DataFrame, paths: Sequence[Path]) -> None:
    columns = _identity(metadata)
    twice = metadata[metadata.duplicated(columns)] if columns else metadata[:0]
    if len(twice):
        which = ", ".join(twice.iloc[0][columns])
        text = f"{len(twice)} wells occur twice, the first is {which} ({' and '.join(columns)})"
        advice = "remove the duplicates, or tell fields of view apart by a column site"
        raise FeatureTableError(f"{', '.join(map(str, paths))}: {text}; {advice}")


def _finite(wells: FeatureTable, paths: Sequence[Path]) -> FeatureTable:
    finite = np.isfinite(wells.features)
    mostly_finite = finite.mean(axis=1) > 0.5
    complete = finite[mostly_finite].all(axis=0)
    if not mostly_finite.any() or not complete.any():
        raise FeatureTableError(f"{', '.join(map(str, paths))}: every feature has missing values in some well")
    excluded = replace(
        wells.excluded, features_with_missing=int((~complete).sum()), wells_without_values=int((~mostly_finite).sum())
    )
    names = [name for name, kept in zip(wells.names, complete, strict=True) if kept]
    everything = complete.all() and mostly_finite.all()
    features = wells.features if everything else wells.features[np.ix_(mostly_finite, complete)]
    metadata = wells.metadata[mostly_finite].reset_index(drop=True)
    return replace(wells, metadata=metadata, names=names, features=features, excluded=excluded)
