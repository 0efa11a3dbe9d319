"""Evaluation of one cell: its well embeddings, corrected and aggregated to genes, against each relationship source.

The numbers are `analysis`'s; this module reads the files, names the columns, and shapes the ledger's row. No torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.aggregate import aggregate
from analysis.correct import apply_named
from analysis.pairs import read_pairs
from analysis.recall import VERSIONS, relationship_recall
from harness.embeddings import EMBEDDINGS, read_embeddings
from harness.recipe import Evaluate, Recipe


def evaluate_cell(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Recall of every relationship source by a cell's embeddings.

    Raises:
        ValueError: a column is missing, no controls, or a relationship list that cannot be used.
    """
    settings = recipe.evaluate
    assert settings is not None
    path = folder / EMBEDDINGS
    wells, features = read_embeddings(path)
    for column in (settings.batch_column, settings.control.column, settings.gene_column):
        if column not in wells:
            raise ValueError(f"{path}: no column {column!r}; it has {', '.join(wells.columns)}")
    control = (wells[settings.control.column] == settings.control.value).to_numpy(bool)
    corrected = apply_named(settings.correction, features, control, wells[settings.batch_column].to_numpy())
    gene = wells[settings.gene_column].fillna("").astype(str).tolist()
    guide = wells["treatment"].fillna("").astype(str).tolist() if "treatment" in wells else None
    found = aggregate(corrected, gene, guide)
    sources = _recall(settings, found.genes, found.embeddings)
    return {
        "protocol": f"relationship_recall/{VERSIONS['current']}",
        "correction": settings.correction,
        "genes": len(found.genes),
        "recall": sources,
    }


def _recall(settings: Evaluate, genes: list[str], vectors: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    """Per source."""
    lists = [read_pairs(path, name) for name, path in settings.relationships.items()]
    results = relationship_recall(genes, vectors, lists, thresholds=[settings.tails], replicates=settings.bootstrap)
    return {
        found.source: {
            "recall": found.recall,
            "low": found.recall_low,
            "high": found.recall_high,
            "chance": found.chance,
            "pairs": found.pairs,
            "unknown_pairs": found.unknown_pairs,
        }
        for found in results
    }
