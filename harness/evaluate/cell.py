"""Evaluate one grid cell: correct its well embeddings, aggregate them to genes, and measure the recall of each source.

`analysis` computes the numbers; this module reads the files, selects columns and builds the ledger's row. No torch.
Placebos (`analysis.recall.placebos`) are measured the same way and are part of every row. Untrained networks,
pretrained networks, measured profiles and pixel statistics are grid cells of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.arrays import Features, Floats
from analysis.embeddings.aggregate import GeneMap, aggregate_blocks
from analysis.embeddings.consistency import replicate_consistency
from analysis.embeddings.corrections import corrected
from analysis.recall.outcomes import PairOutcomes
from analysis.recall.pairs import Pairs, read_pairs
from analysis.recall.placebo_panel import placebo_panel
from analysis.recall.placebos import number_features, position_features, random_features, shuffled
from analysis.recall.relationship_recall import VERSIONS, RecallResult, recall_of_pairs
from harness.evaluate.well_columns import EvaluatedWells, problems, read_wells
from harness.grid.cell_folder import EMBEDDINGS, PAIR_OUTCOMES
from harness.recipe.schema import Evaluate, Recipe
from harness.storage.embeddings import read_embeddings
from harness.storage.ledger import RECALL_PROTOCOL
from harness.storage.pair_outcomes import write_outcomes

CONSISTENCY = "replicate_consistency/1"

PlaceboValues = dict[str, dict[str, float]]  # by source


def evaluate_cell(recipe: Recipe, folder: Path, kind: str = "") -> dict[str, Any]:
    """Recall of every relationship source by a cell's embeddings and by placebos, and their replicate consistency.

    Which pairs are recalled is written to the cell's folder, for comparisons with other cells pair by pair.

    Args:
        recipe: the study.
        folder: of the cell.
        kind: of the cell; the features of pixel statistics are placebos themselves.

    Raises:
        ValueError: a column or the controls are missing, or a relationship list cannot be used.
    """
    settings = recipe.evaluate
    assert settings is not None
    wells, features = _read(settings, folder / EMBEDDINGS)
    lists = [read_pairs(path, name) for name, path in settings.relationships.items()]
    means = features[:, : features.shape[1] // 2].copy() if kind == "pixel_statistics" else None
    gene_map, consistency = _genes(settings, wells, features)
    del features  # placebos need memory of their own
    measured = _recall(settings, gene_map, lists)
    write_outcomes(folder / PAIR_OUTCOMES, [outcomes for _, outcomes in measured])
    placebos, failed = _placebos(settings, wells, lists, gene_map, means)
    return {
        "protocol": f"{RECALL_PROTOCOL}/{VERSIONS[settings.protocol]}",
        "correction": settings.correction,
        "genes": len(gene_map.genes),
        "recall": {result.source: _row(result) for result, _ in measured},
        "consistency": consistency,
        "placebos": placebos,
        "placebos_not_measured": failed,
    }


def _genes(settings: Evaluate, wells: EvaluatedWells, features: Features) -> tuple[GeneMap, dict[str, Any] | None]:
    """The genes and the consistency of their replicates. Features are overwritten: they are not in memory twice."""
    stream = corrected(settings.correction, features, wells.control, wells.batch).written_to(features)
    gene_map = aggregate_blocks(stream, wells.gene, wells.guide)
    return gene_map, _consistency(wells, features[:, : stream.width])


def _read(settings: Evaluate, path: Path) -> tuple[EvaluatedWells, Features]:
    table, features = read_embeddings(path)
    if wrong := problems(settings, table):
        raise ValueError(f"{path}: {'; '.join(text for _, text in wrong)}")
    return read_wells(settings, table), features


def _recall(settings: Evaluate, gene_map: GeneMap, lists: list[Pairs]) -> list[tuple[RecallResult, PairOutcomes]]:
    return recall_of_pairs(
        gene_map.genes, gene_map.embeddings, lists, protocol=settings.protocol, thresholds=[settings.tails]
    )


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


def _consistency(wells: EvaluatedWells, embeddings: Features) -> dict[str, Any] | None:
    """Replicate consistency of the genes; None if no gene has two wells."""
    names = [gene for gene in wells.gene if gene]
    if len(set(names)) < 2 or len(set(names)) == len(names):
        return None
    return {"protocol": CONSISTENCY, **replicate_consistency(embeddings, wells.gene).summary()}


def _placebos(
    settings: Evaluate, wells: EvaluatedWells, lists: list[Pairs], gene_map: GeneMap, means: Features | None
) -> tuple[dict[str, PlaceboValues], dict[str, str]]:
    """Recall of each source by each placebo that the wells have, after the same correction, and why others are not."""
    features: dict[str, Callable[[], Floats]] = {"random_features": partial(random_features, len(wells.gene))}
    if wells.position is not None:
        features["well_position"] = partial(position_features, wells.position)
    if wells.count is not None:
        features["cell_count"] = partial(number_features, wells.count)
    if means is not None:
        features["intensity"] = partial(means.astype, np.float64)

    def measure(values: Floats) -> list[RecallResult]:
        stream = corrected(settings.correction, values, wells.control, wells.batch)
        return [found for found, _ in _recall(settings, aggregate_blocks(stream, wells.gene, wells.guide), lists)]

    others = [shuffled(one, gene_map.genes) for one in lists]
    panel = placebo_panel(features, measure, [found for found, _ in _recall(settings, gene_map, others)])
    values: dict[str, PlaceboValues] = {}
    for one in panel.recalls:
        ends = {"recall": one.recall, "recall_low": one.low, "recall_high": one.high, "chance": one.chance}
        values.setdefault(one.placebo, {})[one.source] = ends
    return values, dict(panel.not_measured)
