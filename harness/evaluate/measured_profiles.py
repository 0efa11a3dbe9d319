"""Features measured elsewhere, such as CellProfiler's, as a cell's embeddings: a table's rows, joined to the wells.

Evaluation then finds the same file as after embedding. No torch.

Shapes: W wells, D features.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.embeddings.feature_tables import METADATA, FeatureTable, FeatureTableError, read_wells
from harness.data.shard_sets import open_shards
from harness.data.wells import evaluation_wells
from harness.grid.cell_folder import EMBEDDINGS
from harness.grid.stage_run import StageRun
from harness.recipe.models import Profiles
from harness.storage.embeddings import write_embeddings

ADDRESS = re.compile(r"([A-Za-z]+)0*(\d+)")  # A1 and A01 are one well
IDENTITIES = (("key",), ("experiment", "plate", "well"), ("plate", "well"))  # the first that a table has is joined by


def join_profiles(stage: StageRun) -> dict[str, Any]:
    """Write the features of the wells that `recipe.embed` names, in their order, and return the ledger's values.

    Raises:
        FeatureTableError: a table that cannot be read, lacks a column to join by, or has no row for a well.
        ValueError: an experiment is not in the shards.
    """
    recipe, cell = stage.recipe, stage.cell
    model = recipe.models[cell.model]
    assert isinstance(model, Profiles)
    assert recipe.embed is not None
    shards = open_shards(recipe, recipe.embed.shards)
    chosen = evaluation_wells(shards, recipe.embed.experiments)
    table, wells = read_wells(model.tables), shards.wells.loc[chosen]
    where = ", ".join(str(path) for path in model.tables)
    features = table.features[rows_of(table, wells, where)].astype(np.float32)  # (W, D)
    values = {"kind": cell.kind, "wells": len(wells), "width": len(table.names), "left_out": asdict(table.excluded)}
    made_by = {"study": recipe.name, "cell": cell.id, "kind": cell.kind, "model": cell.model, "tables": where}
    write_embeddings(stage.folder / EMBEDDINGS, wells, features, {**made_by, "stage_fingerprint": stage.fingerprint})
    return values


def rows_of(table: FeatureTable, wells: pd.DataFrame, where: str) -> NDArray[np.int64]:
    """The table's row of each of the wells, (W,).

    Joined by `key`, else by experiment, plate and well, else by plate and well, whichever the table has first, each
    with or without "Metadata_" before it and in any case. Fields of view of one well share a row.

    Raises:
        FeatureTableError: no such columns, plates of the same name in several experiments, or a well without a row.
    """
    columns = {name.removeprefix(METADATA).lower(): name for name in map(str, table.metadata.columns)}
    by = next((names for names in IDENTITIES if columns.keys() >= set(names)), None)
    if by is None:
        raise FeatureTableError(
            f"{where}: wells are joined by Metadata_Plate and Metadata_Well (and Metadata_Experiment), or by key; the "
            f"table has {', '.join(map(str, table.metadata.columns[:12]))}"
        )
    if "experiment" not in by and "plate" in by:
        _check_plates(wells, where)
    given = _names(table.metadata[[columns[name] for name in by]], by)
    place = {name: row for row, name in enumerate(given)}
    asked = _names(wells[list(by)], by)
    if len(place) < len(given):
        twice = next(name for row, name in enumerate(given) if place[name] != row)
        raise FeatureTableError(f"{where}: {_words(by, twice)} comes twice")
    missing = [name for name in asked if name not in place]
    if missing:
        dropped = table.excluded.wells_without_values
        raise FeatureTableError(
            f"{where}: {len(missing)} of {len(asked)} wells have no row here, first {_words(by, missing[0])}; rows are "
            f"named as {_words(by, given[0])}"
            + (f"; {dropped} rows were left out, most of whose values are missing" if dropped else "")
        )
    return np.array([place[name] for name in asked], np.int64)


def _check_plates(wells: pd.DataFrame, where: str) -> None:
    experiments = wells.groupby("plate")["experiment"].nunique()
    if (experiments > 1).any():
        plate, count = experiments.idxmax(), experiments.max()
        raise FeatureTableError(
            f"{where}: plate {plate} is in {count} experiments of the study: add Metadata_Experiment"
        )


def _names(identities: pd.DataFrame, by: Sequence[str]) -> list[tuple[str, ...]]:
    """What names each row, as text that two tables write alike."""
    parts = [_texts(identities.iloc[:, n], name) for n, name in enumerate(by)]
    return list(zip(*parts, strict=True))


def _texts(column: pd.Series, name: str) -> list[str]:
    """Whole numbers without a fraction, which a column with gaps has; wells as A1."""
    whole = [str(int(value)) if isinstance(value, float) and value.is_integer() else str(value) for value in column]
    if name != "well":
        return whole
    found = [(ADDRESS.fullmatch(text.strip()), text) for text in whole]
    return [f"{match[1].upper()}{match[2]}" if match else text for match, text in found]


def _words(by: Sequence[str], name: Sequence[str]) -> str:
    return " ".join(f"{column} {json.dumps(text)}" for column, text in zip(by, name, strict=True))
