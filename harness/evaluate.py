"""Evaluation of one cell: its well embeddings, corrected and aggregated to genes, against each relationship source.

The numbers are `analysis`'s; this module reads the files, names the columns, and shapes the ledger's row. No torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.correct import fit_centre_scale, fit_tvn
from analysis.recall import PROTOCOL, aggregate, read_pairs, relationship_recall
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
    corrected = _corrected(settings, features, control, wells[settings.batch_column].to_numpy())
    gene = wells[settings.gene_column].fillna("").astype(str).tolist()
    guide = wells["treatment"].fillna("").astype(str).tolist() if "treatment" in wells else None
    genes, vectors = aggregate(corrected, gene, guide)
    sources = {name: _source(settings, genes, vectors, list_path) for name, list_path in settings.relationships.items()}
    return {
        "protocol": f"relationship_recall/{PROTOCOL}",
        "correction": settings.correction,
        "genes": len(genes),
        "recall": sources,
    }


def _corrected(
    settings: Evaluate, features: NDArray[np.float64], control: NDArray[np.bool_], batch: NDArray[Any]
) -> NDArray[np.float64]:
    if settings.correction == "tvn":
        return fit_tvn(features, control, batch).apply(features, batch)
    if settings.correction == "centre_scale":
        return fit_centre_scale(features, control).apply(features)
    return features


def _source(settings: Evaluate, genes: Any, vectors: NDArray[np.float64], path: Path) -> dict[str, Any]:  # noqa: ANN401
    low, high = settings.tails
    found = relationship_recall(genes, vectors, read_pairs(path), low=low, high=high, replicates=settings.bootstrap)
    return {
        "recall": found.recall,
        "low": found.recall_low,
        "high": found.recall_high,
        "chance": found.chance,
        "pairs": found.pairs,
        "unknown_pairs": found.unknown_pairs,
    }
