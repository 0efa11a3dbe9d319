"""Use measured profiles, such as CellProfiler's, as a grid cell's embeddings: join the rows of tables to the wells.

Evaluation then reads the same file as after embedding. No torch.

Shapes: W wells, D features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.embeddings.feature_tables import FeatureTable, FeatureTableError, read_wells
from analysis.tables.names import base_name, name_of
from harness.data.shard_sets import open_shards
from harness.data.wells import evaluation_wells
from harness.grid.cell_folder import EMBEDDINGS
from harness.grid.stage_run import StageRun
from harness.recipe.models import ProfilesSection
from harness.storage.embeddings import write_embeddings

IDENTITIES = (("key",), ("experiment", "plate", "well"), ("plate", "well"))  # joined by the first that a table has


def join_profiles(stage: StageRun) -> dict[str, Any]:
    """Write the features of the wells that `recipe.embed` names, in their order, and return the ledger's values.

    Raises:
        FeatureTableError: a table cannot be read, lacks a column to join by, or has no row for a well.
        ValueError: an experiment is not in the shards.
    """
    recipe, cell = stage.recipe, stage.cell
    model = recipe.models[cell.model]
    assert isinstance(model, ProfilesSection)
    assert recipe.embed is not None
    shards = open_shards(recipe, recipe.embed.shards)
    well_numbers = evaluation_wells(shards, recipe.embed.experiments)
    table, wells = read_wells(model.tables).of_wells(), shards.wells.loc[well_numbers]
    where = ", ".join(str(path) for path in model.tables)
    features = table.features[rows_of(table, wells, where)].astype(np.float32)  # (W, D)
    values = {"kind": cell.kind, "wells": len(wells), "width": len(table.names), "left_out": asdict(table.excluded)}
    made_by = {"study": recipe.name, "cell": cell.id, "kind": cell.kind, "model": cell.model, "tables": where}
    write_embeddings(stage.folder / EMBEDDINGS, wells, features, {**made_by, "stage_fingerprint": stage.fingerprint})
    return values


def rows_of(table: FeatureTable, wells: pd.DataFrame, where: str) -> NDArray[np.int64]:
    """The row of each well in the table, (W,).

    Joined by `key`, else by experiment, plate and well, else by plate and well, whichever the table has first, each
    with or without "Metadata_" before it and in any case. Fields of view of one well share a row.

    Raises:
        FeatureTableError: columns are missing, several experiments have a plate of the same name, or a well has no row.
    """
    columns = {base_name(name): name for name in table.metadata.columns}
    by = next((names for names in IDENTITIES if columns.keys() >= set(names)), None)
    if by is None:
        raise FeatureTableError(
            f"{where}: wells are joined by Metadata_Plate and Metadata_Well (and Metadata_Experiment), or by key; the "
            f"table has {', '.join(map(str, table.metadata.columns[:12]))}"
        )
    if "experiment" not in by and "plate" in by:
        _check_plates(wells, where)
    table_names = list(zip(*(table.metadata[columns[name]] for name in by), strict=True))
    row_of = {name: row for row, name in enumerate(table_names)}
    well_names = list(zip(*([name_of(str(text), name) for text in wells[name]] for name in by), strict=True))
    if len(row_of) < len(table_names):
        twice = next(name for row, name in enumerate(table_names) if row_of[name] != row)
        raise FeatureTableError(f"{where}: {_words(by, twice)} occurs twice")
    missing = [name for name in well_names if name not in row_of]
    if missing:
        dropped = table.excluded.wells_without_values
        raise FeatureTableError(
            f"{where}: {len(missing)} of {len(well_names)} wells have no row, first {_words(by, missing[0])}; rows are "
            f"named like {_words(by, table_names[0])}"
            + (f"; {dropped} rows were left out, most of whose values are missing" if dropped else "")
        )
    return np.array([row_of[name] for name in well_names], np.int64)


def _check_plates(wells: pd.DataFrame, where: str) -> None:
    experiments = wells.groupby("plate")["experiment"].nunique()
    if (experiments > 1).any():
        plate, count = experiments.idxmax(), experiments.max()
        raise FeatureTableError(
            f"{where}: plate {plate} is in {count} experiments of the study: add Metadata_Experiment"
        )


def _words(by: Sequence[str], name: Sequence[str]) -> str:
    return " ".join(f"{column} {json.dumps(text)}" for column, text in zip(by, name, strict=True))
