"""The files that embedding hands to evaluation and to notebooks: one Parquet of wells per cell. No torch.

Shapes: W wells, D embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.storage.atomic import write_atomic

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

GROUP_WELLS = 65_536  # in a row group of a file of parts
FEATURE = "feature_"  # columns feature_0 ... feature_<D-1>
PROVENANCE = b"provenance"  # in the Parquet's schema: JSON
METADATA = ("key", "experiment", "plate", "well", "site", "gene", "treatment", "perturbation_type")


def write_embeddings(
    path: Path, wells: pd.DataFrame, features: NDArray[np.float32], provenance: Mapping[str, Any] | None = None
) -> None:
    """The metadata of `wells` and their features (W, D), as Parquet, with what made them in its schema."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    table = wells[[name for name in METADATA if name in wells]].reset_index(drop=True)
    columns = pd.DataFrame(features, columns=[f"{FEATURE}{i}" for i in range(features.shape[1])])
    arrow = pa.Table.from_pandas(pd.concat([table, columns], axis=1), preserve_index=False)
    said = {PROVENANCE: json.dumps(dict(provenance or {}), sort_keys=True).encode()}
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **said})
    write_atomic(path, lambda file: parquet.write_table(arrow, file))


def join_embeddings(path: Path, parts: Sequence[tuple[Path, Sequence[str]]]) -> int:
    """Write the embeddings of `parts` one after another into one file, whole or not at all, and return their width D.

    Args:
        parts: files of `write_embeddings`, each with the keys of the wells that it must hold, in their order.

    Raises:
        ValueError: a part cannot be read or holds other wells. It is removed.
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
    """The parts' tables, put together into few large ones: the footer grows with groups times columns."""
    import pyarrow as pa

    held: list[pa.Table] = []
    for path, keys in parts:
        held.append(_checked_part(path, keys))
        if sum(map(len, held)) >= GROUP_WELLS:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _checked_part(path: Path, keys: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            table = file.read(use_threads=False)  # Arrow's threads may outlive what asks them: see shards/columns.py
        if table["key"].to_pylist() != list(keys):
            raise ValueError(f"it holds {len(table)} wells that are not the {len(keys)} of this part")
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        path.unlink(missing_ok=True)
        raise ValueError(f"{path}: damaged, and removed: {error}; run again to embed its wells again") from error
    return table


def read_provenance(path: Path) -> dict[str, Any]:
    """What made the embeddings; empty where the file does not say."""
    from pyarrow import parquet

    said = (parquet.read_schema(path).metadata or {}).get(PROVENANCE, b"{}")
    provenance: dict[str, Any] = json.loads(said)
    return provenance


def read_embeddings(path: Path) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """The wells' metadata, and their features (W, D).

    Raises:
        ValueError: no such file, or no features in it.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: embeddings cannot be read: {error}") from error
    names = [name for name in table.columns if name.startswith(FEATURE)]
    if not names:
        raise ValueError(f"{path}: no columns named {FEATURE}0, {FEATURE}1, ...")
    return table.drop(columns=names), table[names].to_numpy(np.float64)
