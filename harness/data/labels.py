"""Labels of a classifier: the classes of wells, and the order that samples them (supplement A.2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.data.shard_sets import open_shards
from harness.data.wells import Wells, training_wells
from harness.grid.cell import Cell
from harness.recipe.models import DenseNetSection, VitClassifierSection
from harness.recipe.schema import Recipe
from shards.order.random_order import Order
from shards.order.weighted_order import PlateOrder, WeightedOrder, balancing_weights
from shards.reader.shard_set import ShardSet


@dataclass(frozen=True, eq=False)
class Labels:
    """Class names, sorted, and the class number of every well of a shard set: -1 for none, or one not trained on."""

    names: tuple[str, ...]
    of_well: NDArray[np.int64]


def read_labels(shards: ShardSet, wells: Wells, column: str) -> Labels:
    """The classes that the training `wells` hold in a column of the table; controls are classes like any other.

    Raises:
        ValueError: no such column, or fewer than two classes.
    """
    if column not in shards.table.columns:
        known = ", ".join(shards.table.columns)
        raise ValueError(f"a classifier's label is {column!r}, but {shards.folder} has the columns {known}")
    label = shards.table.frame([column])[column].fillna("").astype(str).to_numpy()
    names = sorted(set(label[wells]) - {""})
    if len(names) < 2:
        raise ValueError(f"{shards.folder}: column {column!r} holds {len(names)} labels: a classifier needs two")
    number = {name: n for n, name in enumerate(names)}
    return Labels(tuple(names), np.array([number.get(value, -1) for value in label], np.int64))


def labels_of(cell: Cell, shards: ShardSet, wells: Wells) -> Labels | None:
    """The labels that a cell trains on; None where its model is no classifier."""
    model = cell.architecture.model if cell.architecture else None
    return (
        read_labels(shards, wells, model.label) if isinstance(model, DenseNetSection | VitClassifierSection) else None
    )


def class_count(recipe: Recipe, cell: Cell) -> int:
    """Classes of a cell's head: 0 for an untrained cell, and for a model that is no classifier."""
    return len(class_names(recipe, cell))


def class_names(recipe: Recipe, cell: Cell) -> tuple[str, ...]:
    """The names of a cell's classes, in the order of its head's outputs."""
    if cell.dataset is None or not cell.is_classifier:
        return ()
    dataset = recipe.datasets[cell.dataset]
    shards = open_shards(recipe, dataset.shards, sizes=False)  # its table alone is read
    labels = labels_of(cell, shards, training_wells(shards, dataset.fraction)[1])
    return labels.names if labels else ()


def labelled_order(cell: Cell, shards: ShardSet, wells: Wells, labels: Labels) -> Order:
    """A classifier's order: groups of one plate for AdaBN, else weighted so that every label comes equally often.

    Raises:
        ValueError: a plate has fewer images than a group.
    """
    model = cell.architecture.model if cell.architecture else None
    if isinstance(model, DenseNetSection) and model.adaptive:
        return PlateOrder(cell.seed, plates(shards, wells), model.group)
    return WeightedOrder(cell.seed, balancing_weights(labels.of_well[wells]))


def plates(shards: ShardSet, wells: Wells) -> list[str]:
    """The plate of each well, named with its experiment."""
    table = shards.wells.loc[wells]
    return (table["experiment"].astype(str) + "/" + table["plate"].astype(str)).tolist()
