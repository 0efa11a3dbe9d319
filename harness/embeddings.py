"""The files that embedding hands to evaluation and to notebooks: one Parquet of wells per cell. No torch.

Shapes: W wells, D embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.files import write_whole

EMBEDDINGS, RECONSTRUCTIONS = "embeddings.parquet", "reconstructions.npz"
FEATURE = "feature_"  # columns feature_0 ... feature_<D-1>
PROVENANCE = b"provenance"  # in the Parquet's schema: JSON
METADATA = ("key", "experiment", "plate", "well", "site", "gene", "treatment", "perturbation_type")


def write_embeddings(
    path: Path, wells: pd.DataFrame, features: NDArray[np.float32], provenance: Mapping[str, Any] | None = None
) -> None:
    """The metadata of `wells` and their features (W, D), as Parquet, with what made them in its schema."""
    import pyarrow as pa
    from pyarrow import parquet

    table = wells[[name for name in METADATA if name in wells]].reset_index(drop=True)
    columns = pd.DataFrame(features, columns=[f"{FEATURE}{i}" for i in range(features.shape[1])])
    arrow = pa.Table.from_pandas(pd.concat([table, columns], axis=1), preserve_index=False)
    said = {PROVENANCE: json.dumps(dict(provenance or {}), sort_keys=True).encode()}
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **said})
    write_whole(path, lambda file: parquet.write_table(arrow, file))


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
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: embeddings cannot be read: {error}") from error
    names = [name for name in table.columns if name.startswith(FEATURE)]
    if not names:
        raise ValueError(f"{path}: no columns named {FEATURE}0, {FEATURE}1, ...")
    return table.drop(columns=names), table[names].to_numpy(np.float64)
