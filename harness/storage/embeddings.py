"""Read and write embeddings: one Parquet file of wells per grid cell. Needs no torch.

Shapes: W wells, D embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.arrays import Features
from analysis.recall.placebos import COUNTS
from harness.storage.atomic import write_atomic

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

GROUP_WELLS = 65_536  # per row group; the minimum in a file joined from parts, except for the last
READ_COLUMNS = 64  # that are read together: 16 MB of such a row group
FEATURE = "feature_"  # columns feature_0 ... feature_<D-1>
PROVENANCE = b"provenance"  # key in the Parquet schema's metadata; its value is JSON
METADATA = ("key", "experiment", "plate", "well", "site", "gene", "treatment", "perturbation_type")


def write_embeddings(
    path: Path, wells: pd.DataFrame, features: NDArray[np.float32], provenance: Mapping[str, Any] | None = None
) -> None:
    """Write the metadata of `wells` and their features (W, D) as Parquet, with their provenance in its schema.

    Of other columns, the number of cells is kept: it is a placebo (`analysis.recall.placebos`).
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    counts = [name for name in wells.columns if str(name).lower() in COUNTS]
    table = wells[[*(name for name in METADATA if name in wells), *counts]].reset_index(drop=True)
    columns = pd.DataFrame(features, columns=[f"{FEATURE}{i}" for i in range(features.shape[1])])
    arrow = pa.Table.from_pandas(pd.concat([table, columns], axis=1), preserve_index=False)
    metadata = {PROVENANCE: json.dumps(dict(provenance or {}), sort_keys=True).encode()}
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata})
    write_atomic(path, lambda file: parquet.write_table(arrow, file, row_group_size=GROUP_WELLS))


def join_embeddings(path: Path, parts: Sequence[tuple[Path, Sequence[str]]]) -> int:
    """Write the embeddings of `parts` in order into one file, atomically, and return their width D.

    Args:
        parts: files of `write_embeddings`, each with the keys of the wells that it must hold, in order.

    Raises:
        ValueError: a part cannot be read or holds other wells. That part is removed.
    """
    from pyarrow import parquet

    schema = parquet.read_schema(parts[0][0])

    def write(file: IO[bytes]) -> None:
        with parquet.ParquetWriter(file, schema) as writer:
            for group in _row_groups(parts):
                writer.write_table(group, row_group_size=len(group))

    write_atomic(path, write)
    return sum(name.startswith(FEATURE) for name in schema.names)


def _row_groups(parts: Sequence[tuple[Path, Sequence[str]]]) -> Iterator[pa.Table]:
    """Concatenate the parts' tables into a few large ones: the footer's size grows with row groups times columns."""
    import pyarrow as pa

    tables: list[pa.Table] = []
    for path, keys in parts:
        tables.append(_checked_part(path, keys))
        if sum(map(len, tables)) >= GROUP_WELLS:
            yield pa.concat_tables(tables).combine_chunks()
            tables = []
    if tables:
        yield pa.concat_tables(tables).combine_chunks()


def _checked_part(path: Path, keys: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            table = file.read(use_threads=False)  # Arrow's threads may outlive the caller: see shards.tables.parquet
        if table["key"].to_pylist() != list(keys):
            raise ValueError(f"it holds {len(table)} wells that are not the {len(keys)} of this part")
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        path.unlink(missing_ok=True)
        raise ValueError(f"{path}: damaged, and removed: {error}; run again to embed its wells again") from error
    return table


def read_provenance(path: Path) -> dict[str, Any]:
    """Return the provenance of the embeddings; empty if the file has none."""
    from pyarrow import parquet

    text = (parquet.read_schema(path).metadata or {}).get(PROVENANCE, b"{}")
    provenance: dict[str, Any] = json.loads(text)
    return provenance


def read_embeddings(path: Path) -> tuple[pd.DataFrame, Features]:
    """Read the wells' metadata and their features (W, D), which stay float32 if they are stored so.

    Features are read a row group and some columns at a time, so that they are in memory once.

    Raises:
        ValueError: the file cannot be read or has no features.
    """
    from pyarrow import parquet

    from shards.tables.parquet import read_frame

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if features := [name for name in names if name.startswith(FEATURE)]:
                metadata = read_frame(file, [name for name in names if not name.startswith(FEATURE)])
                return metadata, _read_features(file, features)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: embeddings cannot be read: {error}") from error
    raise ValueError(f"{path}: no columns named {FEATURE}0, {FEATURE}1, ...")


def _read_features(file: ParquetFile, names: Sequence[str]) -> Features:
    """(W, D), float32 if all columns are, else float64."""
    import pyarrow as pa

    single = all(file.schema_arrow.field(name).type == pa.float32() for name in names)
    features = np.empty((file.metadata.num_rows, len(names)), np.float32 if single else np.float64)
    end = 0
    for number in range(file.num_row_groups):
        start, end = end, end + file.metadata.row_group(number).num_rows
        for first in range(0, len(names), READ_COLUMNS):
            some = names[first : first + READ_COLUMNS]
            group = file.read_row_group(number, some, use_threads=False)  # see shards.tables.parquet
            features[start:end, first : first + len(some)] = np.stack([one.to_numpy() for one in group.columns]).T
    return features
