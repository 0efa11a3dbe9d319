"""Tables of wells from files: metadata, features, and counts of what was left out.

Legend: W wells, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.arrays import Floats, Mask

if TYPE_CHECKING:
    import pandas as pd

METADATA = "Metadata_"  # pycytominer's prefix of columns that are not features
FEATURE = "feature_"  # prefix of feature columns in this project's own embeddings
OURS = frozenset({"key", "experiment", "plate", "well", "site"})  # never features, even if numeric
IDENTITIES = (
    ("Metadata_Experiment", "Metadata_Plate", "Metadata_Well"),
    ("experiment", "plate", "well"),
    ("Metadata_Plate", "Metadata_Well"),
    ("key",),
)  # columns that identify a well; the first set that is present is used


class FeatureTableError(ValueError):
    """A table of wells that cannot be used; the message names the file and what would be right."""


@dataclass(frozen=True)
class Excluded:
    """What was left out before anything was computed."""

    features_not_everywhere: int = 0  # of columns that only some of the files have
    features_with_missing: int = 0  # columns with a missing value in a well that was kept
    wells_without_values: int = 0  # wells most of whose values are missing


@dataclass(frozen=True)
class FeatureTable:
    """Wells with finite features."""

    metadata: pd.DataFrame
    names: list[str]
    features: Floats  # (W, D)
    excluded: Excluded

    def column(self, name: str) -> pd.Series:
        """A column of the metadata. Raises FeatureTableError that lists the columns."""
        if name not in self.metadata:
            raise FeatureTableError(
                f"no column {name!r}; the metadata has {', '.join(map(str, self.metadata.columns))}"
            )
        return self.metadata[name]

    def where(self, keep: Mask) -> FeatureTable:
        """Only these wells."""
        return replace(self, metadata=self.metadata[keep].reset_index(drop=True), features=self.features[keep])


def read_wells(paths: Sequence[Path], prefix: str | None = None) -> FeatureTable:
    """Read tables of wells, one after another: .csv, .csv.gz, .tsv or .parquet.

    Features are the columns that start with `prefix`. Without one: those that start with "feature_", else the numeric
    ones that neither start with "Metadata_" nor identify the well. Features that a file lacks are left out, then wells
    with most values missing or infinite, then features with such a value in any other well; all are counted.

    Raises:
        FeatureTableError: a file that cannot be read, has no features or shares none with the others, or a well that
            occurs twice.
    """
    import pandas as pd

    tables = [_read_table(path) for path in paths]
    names = [_feature_names(table, path, prefix) for table, path in zip(tables, paths, strict=True)]
    common = set(names[0]).intersection(*names[1:])
    shared = [name for name in names[0] if name in common]
    if not shared:
        raise FeatureTableError(f"{paths[0]} and the other files have no feature in common")
    everything = {name for columns in names for name in columns}
    metadata = pd.concat([table.drop(columns=columns) for table, columns in zip(tables, names, strict=True)])
    metadata = metadata.reset_index(drop=True)
    _check_unique(metadata, paths)
    values = np.concatenate([table[shared].to_numpy(np.float64) for table in tables])
    return _finite(FeatureTable(metadata, shared, values, Excluded(len(everything) - len(shared))), paths)


def parse_control(text: str) -> tuple[str, str]:
    """COLUMN=VALUE. Raises FeatureTableError for anything else."""
    column, equals, value = text.partition("=")
    if not (column and equals):
        raise FeatureTableError(f"controls must be given as COLUMN=VALUE, not {text!r}")
    return column, value


def controls(wells: FeatureTable, named: tuple[str, str]) -> Mask:
    """True for the wells whose column holds the value.

    Raises:
        FeatureTableError: no such column, or no such well in it.
    """
    column, value = named
    matching: Mask = (wells.column(column).astype(object).astype(str) == value).to_numpy(bool)
    if not matching.any():
        common = wells.column(column).value_counts().index[:5]
        raise FeatureTableError(f"no well has {column}={value}; {column} holds {', '.join(map(str, common))}, ...")
    return matching


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            separator = "\t" if ".tsv" in path.suffixes else ","
            table = pd.read_csv(path, sep=separator, low_memory=False)
    except (OSError, ValueError, EOFError) as error:
        raise FeatureTableError(f"{path}: cannot be read as a table of wells: {error}") from error
    if not len(table):
        raise FeatureTableError(f"{path}: holds no wells")
    return table


def _feature_names(table: pd.DataFrame, path: Path, prefix: str | None) -> list[str]:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    def numeric(name: str) -> bool:
        return is_numeric_dtype(table[name]) and not is_bool_dtype(table[name])

    columns = [str(name) for name in table.columns]
    features = [name for name in columns if name.startswith(prefix or FEATURE)]
    if prefix is None and not features:
        others = [name for name in columns if not name.startswith(METADATA) and name.lower() not in OURS]
        features = [name for name in others if numeric(name)]
    if not features:
        requirement = f"starts with {prefix!r}" if prefix else "is numeric"
        raise FeatureTableError(
            f"{path}: no column {requirement}, so there are no features; it has {', '.join(columns[:12])}, ..."
        )
    if wrong := [name for name in features if not numeric(name)]:
        raise FeatureTableError(f"{path}: feature {wrong[0]!r} holds {table[wrong[0]].dtype} where numbers are needed")
    return features


def _check_unique(metadata: pd.DataFrame, paths: Sequence[Path]) -> None:
    for columns in IDENTITIES:
        if set(columns) <= set(metadata.columns):
            twice = metadata[metadata.duplicated(list(columns))]
            if len(twice):
                which = ", ".join(map(str, twice.iloc[0][list(columns)]))
                text = f"{len(twice)} wells occur twice, the first is {which} ({' and '.join(columns)})"
                raise FeatureTableError(f"{', '.join(map(str, paths))}: {text}; remove the duplicates")
            return


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
    return FeatureTable(wells.metadata[mostly_finite].reset_index(drop=True), names, features, excluded)
