"""Evaluation of one cell: its well embeddings, corrected and aggregated to genes, against each relationship source.

The numbers are `analysis`'s; this module reads the files, names the columns, and shapes the ledger's row. No torch.
Baselines go the same way: random features stand in every row; untrained networks, networks from elsewhere, measured
profiles and pixel statistics are cells of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.embeddings.aggregate import aggregate
from analysis.embeddings.consistency import replicate_consistency
from analysis.embeddings.corrections import apply_named
from analysis.recall.pairs import Pairs, read_pairs
from analysis.recall.relationship_recall import VERSIONS, RecallResult, relationship_recall
from harness.grid.cell_folder import EMBEDDINGS
from harness.recipe.schema import Evaluate, Recipe
from harness.storage.embeddings import read_embeddings

PROTOCOL = "relationship_recall/2"  # version 1 of the row called the ends of the interval low and high
CONSISTENCY = "replicate_consistency/1"
RANDOM_WIDTH = 128

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Wells:
    """What the wells are, W of them."""

    gene: list[str]
    guide: list[str] | None
    batch: NDArray[Any]
    control: NDArray[np.bool_]


def evaluate_cell(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Recall of every relationship source by a cell's embeddings, its consistency, and the baselines beside it.

    Raises:
        ValueError: a column is missing, no controls, or a relationship list that cannot be used.
    """
    settings = recipe.evaluate
    assert settings is not None
    wells, features = _read(settings, folder / EMBEDDINGS)
    lists = [read_pairs(path, name) for name, path in settings.relationships.items()]
    corrected = apply_named(settings.correction, features, wells.control, wells.batch)
    genes, results = _recall(settings, wells, corrected, lists, settings.bootstrap)
    return {
        "protocol": f"{PROTOCOL}/{VERSIONS[settings.protocol]}",
        "correction": settings.correction,
        "genes": genes,
        "recall": {found.source: _row(found) for found in results},
        "consistency": _consistency(wells, corrected),
        "baselines": _baselines(settings, wells, lists),
    }


def _read(settings: Evaluate, path: Path) -> tuple[_Wells, Floats]:
    table, features = read_embeddings(path)
    for column in (settings.batch_column, settings.control.column, settings.gene_column):
        if column not in table:
            raise ValueError(f"{path}: no column {column!r}; it has {', '.join(table.columns)}")
    control = (table[settings.control.column] == settings.control.value).to_numpy(bool)
    gene = table[settings.gene_column].fillna("").astype(str).tolist()
    guide = table["treatment"].fillna("").astype(str).tolist() if "treatment" in table else None
    return _Wells(gene, guide, table[settings.batch_column].to_numpy(), control), features


def _recall(
    settings: Evaluate, wells: _Wells, corrected: Floats, lists: list[Pairs], replicates: int
) -> tuple[int, list[RecallResult]]:
    found = aggregate(corrected, wells.gene, wells.guide)
    results = relationship_recall(
        found.genes, found.embeddings, lists,
        protocol=settings.protocol, thresholds=[settings.tails], replicates=replicates,
    )  # fmt: skip
    return len(found.genes), results


def _row(found: RecallResult) -> dict[str, Any]:
    return {
        "recall": found.recall,
        "recall_low": found.recall_low,
        "recall_high": found.recall_high,
        "low_tail": found.low_tail,
        "high_tail": found.high_tail,
        "random_pairs": found.random_pairs,
        "chance": found.chance,
        "pairs": found.pairs,
        "unknown_pairs": found.unknown_pairs,
        "unknown_genes": found.unknown_genes,
    }


def _consistency(wells: _Wells, corrected: Floats) -> dict[str, Any] | None:
    """Of the genes' replicates; None where no gene has two wells."""
    named = np.array([gene != "" for gene in wells.gene])
    names = [gene for gene in wells.gene if gene]
    if len(set(names)) < 2 or len(set(names)) == len(names):
        return None
    return {"protocol": CONSISTENCY, **replicate_consistency(corrected[named], names).summary()}


def _baselines(settings: Evaluate, wells: _Wells, lists: list[Pairs]) -> dict[str, dict[str, float]]:
    """Recall per source by features that know nothing."""
    random = np.random.default_rng(0).normal(size=(len(wells.gene), RANDOM_WIDTH))
    corrected = apply_named(settings.correction, random, wells.control, wells.batch)
    results = _recall(settings, wells, corrected, lists, 0)[1]
    return {"random_features": {result.source: result.recall for result in results}}
