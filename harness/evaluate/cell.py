"""Evaluate one grid cell: correct its well embeddings, aggregate them to genes, and measure the recall of each source.

`analysis` computes the numbers; this module reads the files, selects columns and builds the ledger's row. No torch.
Baselines are evaluated the same way: random features are part of every row; untrained networks, pretrained networks,
measured profiles and pixel statistics are grid cells of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.embeddings.aggregate import aggregate
from analysis.embeddings.consistency import replicate_consistency
from analysis.embeddings.corrections import apply_named
from analysis.recall import gene_sketch
from analysis.recall.pairs import Pairs, read_pairs
from analysis.recall.relationship_recall import VERSIONS, RecallResult, sketched_recall
from analysis.tables.names import name_of, names_of
from analysis.tables.series import column_of
from harness.grid.cell_folder import EMBEDDINGS, GENE_SKETCHES
from harness.recipe.schema import Evaluate, Recipe
from harness.storage.embeddings import read_embeddings
from harness.storage.gene_sketches import write_sketches

PROTOCOL = "relationship_recall/2"  # version 1 of the row called the ends of the interval low and high
CONSISTENCY = "replicate_consistency/1"
RANDOM_WIDTH = 128

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Wells:
    """Metadata of the W wells."""

    gene: list[str]
    guide: list[str] | None
    batch: NDArray[Any]
    control: NDArray[np.bool_]


def evaluate_cell(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Recall of every relationship source by a cell's embeddings, their replicate consistency, and random baselines.

    How the recalls depend on the choice of genes is written to the cell's folder, for comparisons with other cells.

    Raises:
        ValueError: a column or the controls are missing, or a relationship list cannot be used.
    """
    settings = recipe.evaluate
    assert settings is not None
    wells, features = _read(settings, folder / EMBEDDINGS)
    lists = [read_pairs(path, name) for name, path in settings.relationships.items()]
    corrected = apply_named(settings.correction, features, wells.control, wells.batch)
    genes, measured = _recall(settings, wells, corrected, lists, settings.bootstrap)
    results = [result for result, _ in measured]
    sketches = {result.source: sketch for result, sketch in measured if sketch is not None}
    recalls = {result.source: result.recall for result in results}
    write_sketches(folder / GENE_SKETCHES, gene_sketch.VERSION, recalls, sketches)
    return {
        "protocol": f"{PROTOCOL}/{VERSIONS[settings.protocol]}",
        "correction": settings.correction,
        "genes": genes,
        "recall": {result.source: _row(result) for result in results},
        "consistency": _consistency(wells, corrected),
        "baselines": _baselines(settings, wells, lists),
    }


def _read(settings: Evaluate, path: Path) -> tuple[_Wells, Floats]:
    table, features = read_embeddings(path)
    for column in (settings.batch_column, settings.control.column, settings.gene_column):
        if column not in table:
            raise ValueError(f"{path}: no column {column!r}; it has {', '.join(table.columns)}")
    batch, gene = (_names(table, column) for column in (settings.batch_column, settings.gene_column))
    if (blank := batch == "").any():
        where = f"the first is well {np.argmax(blank) + 1}"
        raise ValueError(f"{path}: {blank.sum()} of {len(batch)} wells have no {settings.batch_column}, {where}")
    control = _names(table, settings.control.column) == name_of(settings.control.value, settings.control.column)
    guide = _names(table, "treatment").tolist() if "treatment" in table else None
    return _Wells(gene.tolist(), guide, batch, control), features


def _names(table: pd.DataFrame, column: str) -> NDArray[Any]:
    return names_of(column_of(table[column]), column)


def _recall(
    settings: Evaluate, wells: _Wells, corrected: Floats, lists: list[Pairs], replicates: int
) -> tuple[int, list[tuple[RecallResult, Floats | None]]]:
    genes = aggregate(corrected, wells.gene, wells.guide)
    results = sketched_recall(
        genes.genes, genes.embeddings, lists,
        protocol=settings.protocol, thresholds=[settings.tails], replicates=replicates,
        sketches=replicates > 0,
    )  # fmt: skip
    return len(genes.genes), results


def _row(result: RecallResult) -> dict[str, Any]:
    return {
        "recall": result.recall,
        "recall_low": result.recall_low,
        "recall_high": result.recall_high,
        "low_tail": result.low_tail,
        "high_tail": result.high_tail,
        "random_pairs": result.random_pairs,
        "chance": result.chance,
        "pairs": result.pairs,
        "unknown_pairs": result.unknown_pairs,
        "unknown_genes": result.unknown_genes,
    }


def _consistency(wells: _Wells, corrected: Floats) -> dict[str, Any] | None:
    """Replicate consistency of the genes; None if no gene has two wells."""
    named = np.array([gene != "" for gene in wells.gene])
    names = [gene for gene in wells.gene if gene]
    if len(set(names)) < 2 or len(set(names)) == len(names):
        return None
    return {"protocol": CONSISTENCY, **replicate_consistency(corrected[named], names).summary()}


def _baselines(settings: Evaluate, wells: _Wells, lists: list[Pairs]) -> dict[str, dict[str, float]]:
    """Recall of each source by random features."""
    random = np.random.default_rng(0).normal(size=(len(wells.gene), RANDOM_WIDTH))
    corrected = apply_named(settings.correction, random, wells.control, wells.batch)
    results = _recall(settings, wells, corrected, lists, 0)[1]
    return {"random_features": {result.source: result.recall for result, _ in results}}
